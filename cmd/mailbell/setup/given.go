package setup

// Answers of the command line.

import (
	"flag"
	"fmt"
	"os"
	"strings"
)

// Given are the flags that were given, by name. An answer is taken once: where a question is asked again, a person answers it.
type Given map[string]string

// Flags registers a flag for each question. A secret has two, which name a file or a variable: an argument can be seen by everybody on the
// machine. The function returns those that were given, after the flags were parsed.
func Flags(flags *flag.FlagSet) func() Given {
	names := map[string]bool{}
	for _, p := range parts() {
		for _, q := range p.questions {
			switch {
			case q.name == addressQuestion:
				continue // the argument
			case q.secret:
				flags.String(q.name+"-file", "", "a `file` with the answer to: "+q.ask)
				flags.String(q.name+"-env", "", "the environment `variable` with the answer to: "+q.ask)
				names[q.name+"-file"], names[q.name+"-env"] = true, true
			default:
				what := q.ask
				if q.choices != nil {
					what += ": " + strings.Join(q.choices(answers{}), ", ")
				}
				flags.String(q.name, "", what)
				names[q.name] = true
			}
		}
	}
	return func() Given {
		g := Given{}
		flags.Visit(func(f *flag.Flag) {
			if names[f.Name] {
				g[f.Name] = f.Value.String()
			}
		})
		return g
	}
}

// flags names the flags of a question.
func (q question) flags() string {
	switch {
	case q.name == addressQuestion:
		return "ADDRESS"
	case q.secret:
		return "--" + q.name + "-file (or --" + q.name + "-env)"
	}
	return "--" + q.name
}

// take takes the answer to a question.
func (g Given) take(q question) (v string, given bool, err error) {
	if !q.secret {
		v, given = g[q.name]
		delete(g, q.name)
		return v, given, nil
	}
	file, byFile := g[q.name+"-file"]
	variable, byVariable := g[q.name+"-env"]
	delete(g, q.name+"-file")
	delete(g, q.name+"-env")
	switch {
	case byFile && byVariable:
		return "", true, fmt.Errorf("both are given: want one")
	case byFile:
		_, content, err := readFile(file)
		return strings.TrimRight(string(content), "\r\n"), true, err
	case byVariable:
		v, set := os.LookupEnv(variable)
		if !set || v == "" {
			return "", true, fmt.Errorf("the environment variable is not set, or empty") // its name may be the secret itself
		}
		return strings.TrimRight(v, "\r\n"), true, nil
	}
	return "", false, nil
}
