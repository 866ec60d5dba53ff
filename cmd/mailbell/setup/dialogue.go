package setup

// Asking for an answer, and taking one that the command line has.

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/mailbell/mailbell/config"
)

// maxFile bounds a file that an answer names; a certificate with its chain has some kilobytes.
const maxFile = 1 << 20

// ask asks until the answer is right. A question whose answer the command line has is not asked, unless that is wrong.
func (s *session) ask(ctx context.Context, q question, again bool) error {
	v, given, err := s.Given.take(q)
	switch {
	case q.when != nil && !q.when(s.answers):
		s.answers.forget(q.name)
		if given {
			s.complain([]string{q.flags() + " does not go with the other answers, and is not used"})
		}
		return nil
	case given:
		if err != nil {
			s.complain([]string{err.Error()})
			break
		}
		wrong := s.accept(q, v)
		if wrong == nil {
			return nil
		}
		s.complain(wrong)
	case q.quiet, q.later && !again:
		return nil
	}
	if q.help != "" {
		fmt.Fprintf(s.Talk, "\n%s\n", q.help)
	}
	for {
		v, err := s.answer(ctx, q)
		if err != nil {
			return err
		}
		wrong := s.accept(q, v)
		if wrong == nil {
			return nil
		}
		s.complain(wrong)
	}
}

// answer reads one answer: an empty line is the default, a hyphen is none.
func (s *session) answer(ctx context.Context, q question) (string, error) {
	preset := s.answers.value[q.name]
	fits := q.choices == nil || slices.Contains(q.choices(s.answers), preset) // an answer before it may have changed
	if (preset == "" || !fits) && q.preset != nil {
		preset = q.preset(s.answers)
	}
	text := q.ask
	if q.choices != nil {
		text += " (" + strings.Join(q.choices(s.answers), ", ") + ")"
	}
	switch {
	case preset != "" && q.secret:
		text += " [as before]"
	case preset != "":
		text += " [" + preset + "]"
	case q.optional:
		text += " [none]"
	}
	if preset != "" && q.optional {
		text += ", - for none"
	}
	v, err := s.prompt(ctx, q, text+": ")
	switch {
	case err != nil:
		return "", err
	case v == "-" && q.optional:
		return "", nil
	case v == "":
		return preset, nil
	}
	return v, nil
}

// prompt shows a text and reads a line.
func (s *session) prompt(ctx context.Context, q question, text string) (string, error) {
	fmt.Fprint(s.Talk, text)
	read := s.Answers.Line
	if q.secret {
		read = s.Answers.Secret
	}
	line, err := read(ctx)
	switch {
	case errors.Is(err, io.EOF):
		fmt.Fprintln(s.Talk)
		return "", fmt.Errorf("the input ended at the question %s nothing was written", strings.TrimSpace(text))
	case err != nil:
		return "", fmt.Errorf("reading the answer to %q: %w", strings.TrimSpace(text), err)
	case q.secret:
		return line, nil // spaces may be of it
	}
	return strings.TrimSpace(line), nil
}

// complain says what is wrong with an answer.
func (s *session) complain(wrong []string) {
	for _, text := range wrong {
		fmt.Fprintf(s.Talk, "  ! %s\n", text)
	}
}

// option is a word to choose.
type option struct{ word, means string }

// choose asks for one of several words, of which the beginning is enough. An empty answer is the first.
func (s *session) choose(ctx context.Context, text string, options []option) (string, error) {
	fmt.Fprintf(s.Talk, "\n%s\n", text)
	words := make([]string, len(options))
	for i, o := range options {
		words[i] = o.word
		fmt.Fprintf(s.Talk, "  %-9s %s\n", o.word, o.means)
	}
	for {
		v, err := s.prompt(ctx, question{}, fmt.Sprintf("(%s) [%s]: ", strings.Join(words, ", "), words[0]))
		if err != nil || v == "" {
			return words[0], err
		}
		if i := slices.IndexFunc(words, func(w string) bool { return strings.HasPrefix(w, strings.ToLower(v)) }); i >= 0 {
			return words[i], nil
		}
		s.complain([]string{"want one of " + strings.Join(words, ", ")})
	}
}

// accept takes an answer if it is right, and says what is wrong with it; nil: nothing.
func (s *session) accept(q question, v string) (wrong []string) {
	switch {
	case !utf8.ValidString(v):
		return []string{"its text is not UTF-8"}
	case strings.ContainsFunc(v, unicode.IsControl):
		return []string{"it has a control character"}
	case v == "" && !q.optional:
		return []string{"an answer is needed"}
	case q.choices != nil && !slices.Contains(q.choices(s.answers), v):
		return []string{fmt.Sprintf("want one of %s, got %q", strings.Join(q.choices(s.answers), ", "), v)}
	}
	if v == "" {
		s.answers.forget(q.name)
		return nil
	}
	if q.right != nil {
		kept, err := q.right(v)
		if err != nil {
			return []string{err.Error()}
		}
		v = kept
	}
	if q.local && !filepath.IsAbs(v) && filepath.Base(v) != v {
		v = filepath.Join(s.stage.dir, v) // the draft is in another folder
	}
	before, answered := s.answers.value[q.name]
	data := s.answers.data[q.name]
	if q.file {
		path, content, err := readFile(v)
		if err != nil {
			return []string{err.Error()}
		}
		v, s.answers.data[q.name] = path, content
	}
	s.answers.value[q.name] = v
	wrong = s.mistakes(q)
	switch {
	case wrong != nil && answered:
		s.answers.value[q.name], s.answers.data[q.name] = before, data
	case wrong != nil:
		s.answers.forget(q.name)
	}
	return wrong
}

// mistakes are what the configuration says of the key of a question.
func (s *session) mistakes(q question) (wrong []string) {
	if q.key == "" {
		return nil
	}
	_, err := s.load()
	errs, ok := errors.AsType[config.Errors](err)
	if err != nil && !ok {
		return []string{err.Error()}
	}
	for _, e := range errs {
		if s.about(q.key, e) || q.also != "" && s.about(q.also, e) {
			wrong = append(wrong, e.Text)
		}
	}
	return wrong
}

// about says whether a mistake is one of a key, or of an item of its list.
func (s *session) about(key string, e config.Error) bool {
	key = strings.ReplaceAll(key, "METHOD", s.answers.value["method"])
	return e.Key == key || strings.HasPrefix(e.Key, key+"[")
}

// readFile reads a file that an answer names, and returns its absolute path.
func readFile(name string) (path string, content []byte, err error) {
	path, err = filepath.Abs(name)
	if err != nil {
		return "", nil, err
	}
	f, err := os.Open(path)
	if err != nil {
		return "", nil, err
	}
	defer f.Close()
	content, err = io.ReadAll(io.LimitReader(f, maxFile+1))
	switch {
	case err != nil:
		return "", nil, err
	case len(content) > maxFile:
		return "", nil, fmt.Errorf("%s is larger than %d bytes", path, maxFile)
	case len(strings.TrimSpace(string(content))) == 0:
		return "", nil, fmt.Errorf("%s is empty", path)
	}
	return path, content, nil
}

// take takes the answer to a question from the command line, or its default. It says what is missing or wrong.
func (s *session) take(q question) (wrong []string) {
	v, given, err := s.Given.take(q)
	applies := q.when == nil || q.when(s.answers)
	switch {
	case given && !applies:
		return []string{q.flags() + ": does not go with the other answers"}
	case !applies:
		return nil
	case err != nil:
		return []string{q.flags() + ": " + err.Error()}
	case !given && s.answers.value[q.name] != "":
		v = s.answers.value[q.name]
	case !given && q.preset != nil:
		v = q.preset(s.answers)
		if q.confirm && v != "" {
			return []string{q.flags() + " is missing: " + v + " was found, outside the mail domain; it gets the password only if the flag names it"}
		}
	}
	if !given && v == "" {
		if q.optional || q.later {
			return nil
		}
		return []string{q.flags() + " is missing: " + q.ask}
	}
	for _, text := range s.accept(q, v) {
		wrong = append(wrong, q.flags()+": "+text)
	}
	return wrong
}

// forget drops an answer.
func (a answers) forget(name string) {
	delete(a.value, name)
	delete(a.data, name)
}

// list are the parts of an answer with commas.
func list(v string) (parts []string) {
	for p := range strings.SplitSeq(v, ",") {
		p = strings.TrimSpace(p)
		if p != "" {
			parts = append(parts, p)
		}
	}
	return parts
}
