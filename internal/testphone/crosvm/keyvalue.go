package main

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// pair is one of a value in the key-value grammar; bare where it has no value, and
// nested where that has brackets that are not in quotes.
type pair struct {
	key, value   string
	bare, nested bool
}

// nestedKeys are the ones whose values have brackets: lists, and words with fields.
var nestedKeys = []string{"clusters", "sve", "core-types", "freq-domains", "mem", "cam", "dynamic-power-coefficient", "capacity", "cpu-affinity"}

// keyValues reads that grammar (serde_keyvalue/src/key_values.rs). first is the key
// that may be left out before the first value, "" for none.
func keyValues(text, first string) ([]pair, error) {
	var list []pair
	rest := text
	for n := 0; rest != "" || n == 0; n++ {
		key, value, bare, left, err := keyValue(rest)
		if err != nil {
			return nil, err
		}
		if bare && n == 0 && first != "" {
			key, value, bare = first, key, false
		}
		if slices.ContainsFunc(list, func(p pair) bool { return p.key == key }) {
			return nil, fmt.Errorf("duplicate field `%s`", key)
		}
		quoted := strings.HasPrefix(rest, key+`="`) || strings.HasPrefix(rest, key+"='")
		list = append(list, pair{key, value, bare, strings.Contains(value, "[") && !quoted})
		if left == "" {
			return list, nil
		}
		if left[0] != ',' {
			return nil, fmt.Errorf("%d: expected comma", len(text)-len(left))
		}
		if rest = left[1:]; rest == "" {
			return nil, fmt.Errorf("%d: expected identifier", len(text))
		}
	}
	return list, nil
}

// keyValue reads one pair and returns what is left.
func keyValue(s string) (key, value string, bare bool, left string, err error) {
	if s != "" && (s[0] == '"' || s[0] == '\'') { // an implicit first value, quoted
		v, left, err := word(s)
		return v, "", true, left, err
	}
	end := strings.IndexAny(s, "=,[]")
	if end < 0 {
		end = len(s)
	}
	key = s[:end]
	if key == "" {
		return "", "", false, "", fmt.Errorf("expected identifier")
	}
	if end == len(s) || s[end] != '=' {
		return key, "", true, s[end:], nil
	}
	value, left, err = word(s[end+1:])
	return key, value, false, left, err
}

// word reads a value: quoted, in brackets, or up to a comma.
func word(s string) (value, left string, err error) {
	if s == "" {
		return "", "", fmt.Errorf("expected string")
	}
	switch s[0] {
	case '"', '\'':
		end := strings.IndexByte(s[1:], s[0])
		if end < 0 {
			return "", "", fmt.Errorf("expected closing quote")
		}
		return s[1 : 1+end], s[end+2:], nil
	case '[':
		depth := 0
		for i, c := range s {
			switch c {
			case '[':
				depth++
			case ']':
				if depth--; depth == 0 {
					return s[:i+1], s[i+1:], nil
				}
			}
		}
		return "", "", fmt.Errorf("expected closing bracket")
	}
	end := strings.IndexAny(s, ",[]")
	if end < 0 {
		end = len(s)
	}
	// A word in front of a bracket is an enum with fields: kvm[device=…].
	if end < len(s) && s[end] == '[' {
		_, left, err := word(s[end:])
		return s[:len(s)-len(left)], left, err
	}
	if strings.ContainsAny(s[:end], `"'`) {
		return "", "", fmt.Errorf("trailing characters: a quote inside a value")
	}
	return s[:end], s[end:], nil
}

// fields checks the keys of a value and gives them by name.
func fields(list []pair, keys ...string) (map[string]string, error) {
	m := map[string]string{}
	for _, p := range list {
		if !slices.Contains(keys, p.key) {
			return nil, fmt.Errorf("unknown field `%s`, expected one of %s", p.key, strings.Join(keys, ", "))
		}
		if p.bare {
			p.value = "true"
		}
		if p.nested && !slices.Contains(nestedKeys, p.key) {
			return nil, fmt.Errorf("expected comma")
		}
		m[p.key] = p.value
	}
	return m, nil
}

// number reads one of the grammar: also 0x, 0o and 0b.
func number(s string) (uint64, error) {
	v, err := strconv.ParseUint(s, 0, 64)
	if err != nil || len(s) > 1 && s[0] == '0' && s[1] >= '0' && s[1] <= '9' {
		return 0, fmt.Errorf("invalid number %q", s)
	}
	return v, nil
}

// boolean reads one; def where there is none.
func boolean(m map[string]string, key string, def bool) (bool, error) {
	switch v, ok := m[key]; {
	case !ok:
		return def, nil
	case v == "true":
		return true, nil
	case v == "false":
		return false, nil
	default:
		return false, fmt.Errorf("%s: expected boolean, got %q", key, v)
	}
}
