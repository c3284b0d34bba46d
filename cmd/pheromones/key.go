package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/Blockchain-CN/pheromones/identity"
)

// keyName is the name of the key file in a node's folder.
const keyName = "key"

// defaultDir returns the folder of this user's node.
func defaultDir() (string, error) {
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("this user has no folder for settings (%w); give one with --dir", err)
	}
	return filepath.Join(dir, "pheromones"), nil
}

// keyIn returns where the key of the node with the folder dir is. The folder is made if it is missing; an empty dir is the
// default folder.
func keyIn(dir string) (string, error) {
	if dir == "" {
		var err error
		if dir, err = defaultDir(); err != nil {
			return "", err
		}
	}
	return filepath.Join(dir, keyName), os.MkdirAll(dir, 0o700)
}

// loadKey reads the key at path, or makes one there if there is none and says that it did.
func loadKey(path string) (key identity.Key, made bool, err error) {
	key, err = identity.Load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return key, false, err
	}
	if key, err = identity.Generate(); err != nil {
		return key, false, err
	}
	if err = key.Save(path); errors.Is(err, fs.ErrExist) {
		// Another process was faster, and its key is the one that stays.
		key, err = identity.Load(path)
		return key, false, err
	}
	return key, err == nil, err
}

// clientKey returns the key of a command that talks to a node: the one at path, or a fresh one if path is empty.
func clientKey(path string) (identity.Key, error) {
	if path == "" {
		return identity.Generate()
	}
	key, err := identity.Load(path)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf(`%w; "pheromones id --key %s" makes one`, err, path)
	}
	return key, err
}
