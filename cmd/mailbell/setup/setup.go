// Package setup makes a configuration that works, from a mail address, in a dialogue: mailbell init.
//
//   - questions.go: the questions, in parts; each is a flag too
//   - survey.go: where the mailbox may be, asked without a password
//   - draft.go: mailbell.yaml from the answers; what is not answered yet has a stand-in
//   - stage.go: the files, in a folder of their own until they are complete
//   - dialogue.go: asking, and taking answers that were given before
//   - lines.go: reading a person's answers, from a terminal or a file
//
// The configuration itself says which answers are right (package config): an answer is written into a draft, and what config.Load says of
// its key is shown. After a part is answered, the checks of `mailbell check` try it.
package setup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.uber.org/zap"

	"github.com/mailbell/mailbell/autodiscover"
	"github.com/mailbell/mailbell/check"
	"github.com/mailbell/mailbell/config"
	"github.com/mailbell/mailbell/mail"
	"github.com/mailbell/mailbell/service"
)

// Options of Run.
type Options struct {
	Address string // of the mailbox that is set up first
	Dir     string // where mailbell.yaml and secrets come
	Given   Given  // answers of the command line
	Yes     bool   // nobody is asked: what is not given has its default, or is missing
	Untried bool   // nothing is tried
	Version string
	Answers Reader
	Talk    io.Writer          // questions, and what a person has to know to answer them
	Out     io.Writer          // results
	Show    func(check.Result) // of a check
}

// UsageError says that the answers of the command line are not enough, or wrong. Nothing was written.
type UsageError struct{ error }

// Run makes the configuration. Where it returns an error, nothing is written.
func Run(ctx context.Context, o Options) error {
	address, err := mail.ParseAddress(o.Address)
	if err != nil {
		return UsageError{fmt.Errorf("mailbell init: %w", err)}
	}
	s := &session{Options: o, answers: answers{value: map[string]string{addressQuestion: address}, data: map[string][]byte{}}}
	s.answers.generated, err = generate()
	if err != nil {
		return err
	}
	s.stage, err = open(o.Dir)
	if err != nil {
		return err
	}
	defer s.stage.discard()
	if err := s.stage.make(); err != nil {
		return fmt.Errorf("%s cannot be written to: %w", s.stage.dir, err)
	}
	for _, left := range s.stage.left {
		fmt.Fprintf(o.Talk, "%s was left by a mailbell init that was killed. It holds secrets: remove it.\n", left)
	}
	if o.Yes {
		err = s.unattended(ctx)
	} else {
		err = s.talk(ctx)
	}
	if ctx.Err() != nil {
		return errors.New("interrupted: nothing was written")
	}
	if err != nil {
		return err
	}
	if err := s.write(); err != nil {
		return err
	}
	return s.end()
}

// session is one run.
type session struct {
	Options
	answers answers
	stage   *stage
	asked   string   // the Autodiscover that the survey asked; empty: that of the mail domain
	planned string   // what was said to be set up
	doubts  []string // warnings of the configuration that was written
}

// answers are what is known.
type answers struct {
	value map[string]string // by the name of the question; a secret too
	data  map[string][]byte // of files that answers name
	generated
	found autodiscover.Survey // what the survey found
}

// talk asks part by part, and tries each.
func (s *session) talk(ctx context.Context) error {
	all := parts()
	again := map[int]bool{}
	for i := 0; i < len(all); {
		fmt.Fprintf(s.Talk, "\n-- %s --\n", all[i].title)
		if err := s.part(ctx, all[i], again[i]); err != nil {
			return err
		}
		back, err := s.settle(ctx, all, i)
		if err != nil {
			return err
		}
		if back < 0 {
			i++
			continue
		}
		for j := back; j <= i; j++ {
			again[j] = true
		}
		i = back
	}
	return nil
}

// part asks the questions of a part.
func (s *session) part(ctx context.Context, p part, again bool) error {
	if p.survey {
		if err := s.survey(ctx); err != nil {
			return err
		}
	}
	for _, q := range p.questions {
		if err := s.ask(ctx, q, again); err != nil {
			return err
		}
	}
	if p.survey && len(s.answers.found.Findings) == 0 && s.answers.value["autodiscover-url"] != s.asked {
		if err := s.survey(ctx); err != nil { // its challenge says how one signs in
			return err
		}
	}
	if p.plan {
		return s.plan(ctx)
	}
	return nil
}

// plan says what is to be set up for the account, and waits until that is done.
func (s *session) plan(ctx context.Context) error {
	c, err := s.load()
	if _, mistakes := errors.AsType[config.Errors](err); mistakes {
		return nil // trying it says so
	}
	if err != nil {
		return err
	}
	plan := service.Plan(c, atoi(s.answers.value["mailboxes"]))
	if plan == s.planned {
		return nil
	}
	s.planned = plan
	fmt.Fprintf(s.Talk, "\nWhat this takes, and how it is set up there. mailbell check --plan N prints it again.\n\n%s\n", plan)
	_, err = s.prompt(ctx, question{}, "Set it up, then press Enter, and mailbell tries it: ")
	return err
}

// settle tries a part until it works, or the person leaves it as it is. It returns the part from which to ask again; below 0: none.
func (s *session) settle(ctx context.Context, all []part, i int) (back int, err error) {
	if all[i].try == service.Everything || s.Untried {
		return -1, nil
	}
	for {
		failed, err := s.try(ctx, all[i].try)
		if err != nil || failed == nil {
			return -1, err
		}
		back := blamed(all, i, failed.Step)
		word, err := s.choose(ctx, fmt.Sprintf("%q failed. What now?", failed.Name), []option{
			{"answer", "answer again: " + strings.ToLower(all[back].title[:1]) + all[back].title[1:]},
			{"retry", "try the same again"},
			{"continue", "leave it as it is, and go on"},
			{"quit", "write nothing"},
		})
		switch {
		case err != nil:
			return 0, err
		case word == "answer":
			return back, nil
		case word == "continue":
			return -1, nil
		case word == "quit":
			return 0, errors.New("given up: nothing was written")
		}
	}
}

// blamed is the part whose answers a failed step is about: of those that are tried together the last one that names the step, else the last.
func blamed(all []part, i int, step string) int {
	first := i
	for first > 0 && all[first-1].try == service.Everything {
		first--
	}
	for j := i; j >= first; j-- {
		if slices.Contains(all[j].steps, step) {
			return j
		}
	}
	return i
}

// try makes the checks of a part. It returns the first that failed; nil: none did.
func (s *session) try(ctx context.Context, only service.Part) (failed *check.Result, err error) {
	c, err := s.load()
	if mistakes, ok := errors.AsType[config.Errors](err); ok {
		failed = &check.Result{Name: "the configuration", Step: check.StepLocation, State: check.Failed}
		for _, m := range mistakes {
			s.Show(check.Result{Name: failed.Name, State: failed.State, Tried: "reading the answers", Error: m.Key + ": " + m.Text})
		}
		return failed, nil
	}
	if err != nil {
		return nil, err
	}
	of := service.Subject{Only: only}
	if only == service.OnlyExchange {
		of.Mailbox = s.answers.value[addressQuestion]
	}
	fmt.Fprintln(s.Talk)
	err = service.Check(ctx, c, nil, zap.NewNop(), s.Version, of, func(r check.Result) {
		if ctx.Err() != nil {
			return
		}
		if r.State == check.Failed && failed == nil {
			failed = &r
		}
		s.Show(r)
	})
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return failed, err
}

// unattended takes all answers from the command line, and tries everything.
func (s *session) unattended(ctx context.Context) error {
	var wrong []string
	for _, p := range parts() {
		if p.survey {
			if err := s.survey(ctx); err != nil {
				return err
			}
		}
		for _, q := range p.questions {
			wrong = append(wrong, s.take(q)...)
		}
	}
	if len(wrong) > 0 {
		return UsageError{errors.New("mailbell init: nothing was written:\n  " + strings.Join(wrong, "\n  "))}
	}
	if s.Untried {
		return nil
	}
	failed := false
	for _, p := range parts() {
		if p.try == service.Everything {
			continue
		}
		result, err := s.try(ctx, p.try)
		if err != nil {
			return err
		}
		failed = failed || result != nil
	}
	if failed {
		return errors.New("a check failed, see above: nothing was written (--no-check writes without trying)")
	}
	return nil
}

// load loads the draft.
func (s *session) load() (*config.Config, error) {
	if err := s.stage.write(s.answers.files()); err != nil {
		return nil, err
	}
	return config.Load(s.stage.file())
}

// write puts the files in their place, if the configuration has no mistake.
func (s *session) write() error {
	c, err := s.load()
	if err != nil {
		return fmt.Errorf("nothing was written: %w", err)
	}
	for _, w := range c.Warnings {
		s.doubts = append(s.doubts, w.Key+": "+w.Text)
	}
	return s.stage.publish()
}
