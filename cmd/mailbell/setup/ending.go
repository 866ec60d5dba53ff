package setup

// What to do with the new configuration.

import (
	"encoding/json"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"text/template"
)

var ending = template.Must(template.New("").Parse(`
Written: {{.File}}
         and {{.Secrets}} secrets in {{.Folder}}

Start mailbell:

    mailbell run --config {{.Config}}

Enrol the first device. The mail app knows its device token, in hex. The id, {{.Device}} here, is your choice: Apple sees it in each alert, so do not
make it of an address:

    TOKEN=…
    curl -X PUT http://{{.API}}/v1/devices/{{.Device}} \
      -H "Authorization: Bearer $(cat {{.Enrol}})" -H 'Content-Type: application/json' \
      -d '{"mailbox": {{.Mailbox}}, "token": "'"$TOKEN"'"}'

Then send {{.Address}} a message. Where no alert comes:

    mailbell why --config {{.Config}} {{.Shown}}

The admin page is at http://{{.API}}/admin/, for the token in {{.Helpdesk}}.
`))

// firstDevice is the id of the device that is enrolled first. It tells nothing of the mailbox, as Apple sees it in each alert.
const firstDevice = "phone-1"

// end says how to start mailbell and how to enrol the first device.
func (s *session) end() error {
	address, folder := s.answers.value[addressQuestion], filepath.Join(s.stage.dir, secretsDir)
	file := filepath.Join(s.stage.dir, configFile)
	for _, doubt := range s.doubts {
		fmt.Fprintf(s.Out, "look at: %s\n", doubt)
	}
	return ending.Execute(s.Out, map[string]any{
		"File": file, "Config": shellQuoted(file), "Folder": folder, "Secrets": len(s.answers.files()) - 1,
		"API": apiAddress(s.answers.value["listen"]), "Device": firstDevice,
		"Enrol": shellQuoted(filepath.Join(folder, clients[0].Name)), "Helpdesk": filepath.Join(folder, clients[1].Name),
		"Mailbox": jsonQuoted(address), "Address": address, "Shown": shellQuoted(address),
	})
}

// apiAddress is where a program on this machine reaches the API.
func apiAddress(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err == nil && (host == "" || ip != nil && ip.IsUnspecified()) {
		return net.JoinHostPort("127.0.0.1", port)
	}
	return listen
}

// shellQuoted writes a text for a shell.
func shellQuoted(s string) string {
	if bare.MatchString(strings.TrimPrefix(s, "/")) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// jsonQuoted writes a text of JSON that can stand within single quotes of a shell.
func jsonQuoted(s string) string {
	b, err := json.Marshal(s)
	if err != nil { // a string can be marshalled
		return `""`
	}
	return strings.ReplaceAll(string(b), "'", `\u0027`)
}
