package main

// What Go's coverage does not count: the conditions behind case, and the declarations of a package.

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"strings"

	"golang.org/x/tools/cover"
)

// complete adds to a profile what is covered where the statement around it is: gremlins would mutate none of it.
// The working directory is the root of the module.
func complete(profile string) error {
	files, err := cover.ParseProfiles(profile)
	if err != nil {
		return err
	}
	out, err := os.OpenFile(profile, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer out.Close()
	for _, f := range files {
		set := token.NewFileSet()
		tree, err := parser.ParseFile(set, strings.TrimPrefix(f.FileName, module), nil, parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		for _, n := range uncounted(set, tree, f.Blocks) {
			from, to := set.Position(n.from), set.Position(n.to)
			if _, err := fmt.Fprintf(out, "%s:%d.%d,%d.%d 1 1\n", f.FileName, from.Line, from.Column, to.Line, to.Column); err != nil {
				return err
			}
		}
	}
	return nil
}

// module is the path of ours, as a profile has it before each file.
const module = "github.com/mailbell/mailbell/"

type span struct{ from, to token.Pos }

func uncounted(set *token.FileSet, tree *ast.File, blocks []cover.ProfileBlock) (list []span) {
	covered := func(at token.Pos) bool {
		p := set.Position(at)
		for _, b := range blocks {
			after := p.Line > b.StartLine || p.Line == b.StartLine && p.Column >= b.StartCol
			before := p.Line < b.EndLine || p.Line == b.EndLine && p.Column <= b.EndCol
			if b.Count > 0 && after && before {
				return true
			}
		}
		return false
	}
	for _, d := range tree.Decls {
		if g, ok := d.(*ast.GenDecl); ok {
			list = append(list, span{g.Pos(), g.End()})
		}
	}
	ast.Inspect(tree, func(n ast.Node) bool {
		var body *ast.BlockStmt
		switch s := n.(type) {
		case *ast.SwitchStmt:
			body = s.Body
		case *ast.SelectStmt:
			body = s.Body
		default:
			return true
		}
		if !covered(n.Pos()) {
			return true
		}
		for _, c := range body.List {
			switch c := c.(type) {
			case *ast.CaseClause:
				list = append(list, span{c.Case, c.Colon})
			case *ast.CommClause:
				list = append(list, span{c.Case, c.Colon})
			}
		}
		return true
	})
	return list
}
