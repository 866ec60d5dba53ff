package main

// The command why: it asks the running service why a phone did not ring.

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/mailbell/mailbell/api"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/internal/outcome"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/subscriptions"
)

func why(ctx context.Context, args []string, out, log io.Writer) error {
	flags := flag.NewFlagSet("why", flag.ContinueOnError)
	file := flags.String("config", "mailbell.yaml", "the configuration `file` of the running service")
	subject, err := parseOne(flags, args, log, "the address of a mailbox, or the id of a device")
	if err == nil && strings.TrimSpace(subject) == "" {
		err = usageError{errors.New("mailbell why: the address or id is empty")}
	}
	if err != nil {
		return err
	}
	ask, err := asking(*file, config.RoleRead, config.RoleTest, config.RoleAdmin)
	if err != nil {
		return err
	}
	// An id may look like an address, so the device is tried first.
	var d api.Device
	err = ask.call(ctx, http.MethodGet, "/v1/devices/"+url.PathEscape(subject), nil, &d)
	isDevice := err == nil
	if p, ok := errors.AsType[*api.Problem](err); err != nil && (!ok || p.Status != http.StatusNotFound) {
		return err
	}
	address := subject
	if isDevice {
		address = d.Mailbox
	}
	var m api.Mailbox
	if err := ask.call(ctx, http.MethodGet, "/v1/mailboxes/"+url.PathEscape(address), nil, &m); err != nil {
		if p, ok := errors.AsType[*api.Problem](err); ok && p.Status == http.StatusNotFound {
			advice := check.Advise(check.ErrNotEnrolled, check.Circumstances{}).Do
			return fmt.Errorf("no device is enrolled with the id %s, or for a mailbox with this address, so no alert can be sent. %s", subject, advice)
		}
		return err
	}
	now := time.Now()
	if isDevice {
		fmt.Fprintf(out, "device %s: %s\n", named(d.ID, d.Label), standing(d.State, d.Reason, d.NextTry, now))
		advise(out, d.Advice)
		fmt.Fprintln(out)
	}
	printMailbox(out, m, now, d.ID)
	return nil
}

// printMailbox prints a mailbox with its devices, and the outcomes for one device or, if that is empty, for all.
func printMailbox(out io.Writer, m api.Mailbox, now time.Time, only string) {
	fmt.Fprintf(out, "mailbox %s: %s\n", m.Address, standing(m.State, m.Reason, m.NextTry, now))
	advise(out, m.Advice)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "  %s\t%s\n", name, value)
		}
	}
	if p := m.Location; p != nil {
		line("located at", p.URL)
		line("exchange entry", p.Exchange)
		found := p.How
		if !p.Found.IsZero() {
			found = strings.TrimSpace(found + ", " + ago(p.Found, now))
		}
		line("found by", found)
		if p.Source != string(mail.Graph) { // which has none to name
			line("server", p.Server)
		}
		line("group", p.Group)
		if p.Primary != m.Address {
			line("primary address", p.Primary)
		}
	}
	line("in this state for", lasted(m.Since, now))
	line("listener account", m.Account)
	line("subscribed", ago(m.Subscribed, now))
	line("last heartbeat", ago(m.LastHeartbeat, now))
	line("last hint", ago(m.LastHint, now))
	line("last listing", ago(m.LastListing, now))
	line("last message", ago(m.LastMessage, now))
	w.Flush()
	printDevices(out, m.DeviceStates, now, m.Advice)
	printDecisions(out, m, now, only)
}

// printDevices prints the state of each device. It does not repeat an advice that is printed above.
func printDevices(out io.Writer, devices []api.DeviceState, now time.Time, given string) {
	fmt.Fprintf(out, "\ndevices:\n")
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, d := range devices {
		fmt.Fprintf(w, "  %s\t%s\n", named(d.ID, d.Label), standing(d.State, d.Reason, d.NextTry, now))
	}
	w.Flush()
	for _, d := range devices {
		if d.Receipts != nil {
			fmt.Fprintf(w, "  %s\t%s%s\n", d.ID, d.Receipts.Sentence(), lastReceipt(d.Receipts.Last, now))
		}
	}
	w.Flush()
	for _, d := range devices {
		if d.Advice != given {
			advise(out, d.Advice)
		}
		given = d.Advice
	}
}

// lastReceipt says when a phone showed an alert last, if it did.
func lastReceipt(at, now time.Time) string {
	if at.IsZero() {
		return ""
	}
	return " It showed the last one " + ago(at, now) + "."
}

// printDecisions prints the outcomes, for one device or, if that is empty, for all.
func printDecisions(out io.Writer, m api.Mailbox, now time.Time, only string) {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	shown := 0
	means := map[outcome.Reason]string{}
	for _, d := range m.Decisions {
		if only != "" && d.Device != "" && d.Device != only {
			continue
		}
		if shown == 0 {
			fmt.Fprintf(out, "\noutcomes, the newest first:\n")
			fmt.Fprintln(w, "  DECIDED\tMESSAGE\tDEVICE\tOUTCOME\tREASON\tAPNS\tSHOWN\tAPNS-ID\tCORRELATION-ID")
		}
		shown++
		status := ""
		if d.Status != 0 {
			status = fmt.Sprint(d.Status)
		}
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", ago(d.Decided, now), d.Message, d.Device, d.Outcome, d.Reason, status, ago(d.Shown, now), d.APNsID, d.Correlation)
		means[d.Reason] = strings.TrimSpace(d.Explanation + " " + d.Advice)
	}
	switch {
	case shown == 0 && len(m.Decisions) > 0:
		fmt.Fprintf(out, "\nno outcome for this device among the newest of its mailbox\n")
	case shown == 0 && !m.LastMessage.IsZero():
		fmt.Fprintf(out, "\nno outcome yet: a message was seen, and is being dealt with\n")
	case shown == 0 && m.LastListing.IsZero():
		fmt.Fprintf(out, "\nno outcome is kept: the mailbox has not been read since the service was started\n")
	case shown == 0:
		fmt.Fprintf(out, "\nno outcome is kept: no new message was seen\n")
	}
	w.Flush()
	if m.Unread != "" {
		fmt.Fprintf(out, "\nolder outcomes are missing here: %s\n", m.Unread)
	}
	delete(means, "")
	if len(means) > 0 {
		fmt.Fprintf(out, "\nwhat the reasons mean:\n")
	}
	for _, reason := range slices.Sorted(maps.Keys(means)) {
		fmt.Fprintf(w, "  %s\t%s\n", reason, means[reason])
	}
	w.Flush()
}

// named is a device by its id, with the label that people know it by.
func named(id, label string) string {
	if label == "" {
		return id
	}
	return id + " (" + label + ")"
}

// advise prints what to do, if there is any advice.
func advise(out io.Writer, advice string) {
	if advice != "" {
		fmt.Fprintf(out, "  do: %s\n", advice)
	}
}

// standing formats a state in one line.
func standing(state subscriptions.State, reason string, next, now time.Time) string {
	s := string(state)
	if reason != "" {
		s += ", " + reason
	}
	if !next.IsZero() {
		s += "; tried again in " + max(next.Sub(now), 0).Round(time.Second).String()
	}
	return s
}

// lasted formats how long something has been; empty: not known.
func lasted(since, now time.Time) string {
	if since.IsZero() {
		return ""
	}
	return max(now.Sub(since), 0).Round(time.Second).String()
}

// ago formats how long ago something was; empty: never.
func ago(at, now time.Time) string {
	if at.IsZero() {
		return ""
	}
	return max(now.Sub(at), 0).Round(time.Second).String() + " ago"
}
