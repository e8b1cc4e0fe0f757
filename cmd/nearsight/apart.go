package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// A ground is where a store keeps its objects: a folder, in what tells equal names
// of folders apart.
type ground struct {
	store, in, folder string
}

// grounds returns where the store of that name keeps its objects. The directories
// of a store of files must be there.
func (s *Store) grounds(name string) ([]ground, error) {
	switch s.Kind {
	case "file":
		var all []ground
		for _, text := range s.Dirs {
			dir, err := parseDir(text)
			if err != nil {
				return nil, err
			}
			path, err := filepath.Abs(dir.Path)
			if err == nil {
				path, err = filepath.EvalSymlinks(path)
			}
			if err != nil {
				return nil, err
			}
			all = append(all, ground{name, "directory", path})
		}
		return all, nil
	case "s3":
		return []ground{{name, "bucket " + s.Bucket + " of " + s.Endpoint, strings.Trim(s.Prefix, "/")}}, nil
	case "swift":
		// The account follows from who logs in.
		account := strings.Join([]string{s.AuthURL, s.Region, s.Domain, s.ProjectDomain, s.Project, s.User, s.ApplicationCredentialID}, " ")
		return []ground{{name, "account " + account, s.Container}}, nil
	}
	return nil, nil
}

// apart refuses stores of which one would find what another one keeps: to the check
// of the stores it would be what nobody needs.
func apart(stores map[string]*Store) error {
	var all []ground
	for name, s := range stores {
		its, err := s.grounds(name)
		if err != nil {
			return fmt.Errorf("store %s: %w", name, err)
		}
		all = append(all, its...)
	}
	slices.SortFunc(all, func(a, b ground) int { return strings.Compare(a.store, b.store) })
	for i, a := range all {
		for _, b := range all[:i] {
			if a.store != b.store && a.in == b.in && (within(a.folder, b.folder) || within(b.folder, a.folder)) {
				return fmt.Errorf("stores %s and %s keep their images in the same place: each needs one of its own", b.store, a.store)
			}
		}
	}
	return nil
}

// within reports whether inner is outer or lies in it.
func within(inner, outer string) bool {
	return outer == "" || inner == outer || strings.HasPrefix(inner, strings.TrimSuffix(outer, "/")+"/")
}
