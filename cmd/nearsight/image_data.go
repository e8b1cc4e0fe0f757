package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"nearsight/registry"
	"nearsight/registry/client"
)

// probeSize is how many bytes of a file guessFormat wants: the mark of an ISO
// 9660 image is the last, at 32769.
const probeSize = 32769 + 5

// sector is the length of what ends a fixed VHD file: its footer, which begins with
// vhdMark as the header of dynamic ones does.
const (
	sector  = 512
	vhdMark = "conectix"
)

// guessFormat returns the disk format that the first bytes of a file speak of:
// raw if it is none of the others.
func guessFormat(b []byte) string {
	for _, m := range []struct {
		offset        int
		magic, format string
	}{
		{0, "QFI\xfb", "qcow2"},
		{0, "KDMV", "vmdk"},
		{0, "COWD", "vmdk"}, // of ESX hosts
		{0, vhdMark, "vhd"}, // of dynamic ones; fixed ones have it at their end
		{0, "WithoutFreeSpace", "ploop"},
		{0, "WithouFreSpacExt", "ploop"},
		{0, "vhdxfile", "vhdx"},
		{0x40, "\x7f\x10\xda\xbe", "vdi"},
		{32769, "CD001", "iso"},
	} {
		if len(b) >= m.offset && bytes.HasPrefix(b[m.offset:], []byte(m.magic)) {
			return m.format
		}
	}
	return "raw"
}

// A source is an image on its way in.
type source struct {
	r     *bufio.Reader
	size  int64  // -1: unknown
	last  []byte // the last sector, where it could be read
	close func() error
	sum   hash.Hash // SHA-512 of what was sent
}

// openSource opens a file, or standard input for "-".
func openSource(cmd *cobra.Command, path string) (*source, error) {
	s := &source{size: -1, close: func() error { return nil }, sum: sha512.New()}
	in := cmd.InOrStdin()
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		in, s.close = f, f.Close
	}
	if f, ok := in.(*os.File); ok {
		if err := s.measure(f); err != nil {
			s.close()
			return nil, err
		}
	}
	s.r = bufio.NewReaderSize(in, 256<<10)
	return s, nil
}

// measure finds out how many bytes f has from where it stands, if it can tell.
func (s *source) measure(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	mode := info.Mode()
	switch {
	case mode.IsDir():
		return fmt.Errorf("%s is a directory", f.Name())
	case term.IsTerminal(int(f.Fd())):
		return usagef("an image is not read from a terminal: redirect a file to standard input")
	case !mode.IsRegular() && mode&(os.ModeDevice|os.ModeCharDevice) != os.ModeDevice:
		return nil // a pipe
	}
	here, err := f.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	s.size = max(end-here, 0)
	if s.size >= sector {
		s.last = make([]byte, sector)
		if _, err := f.ReadAt(s.last, end-sector); err != nil {
			return err
		}
	}
	_, err = f.Seek(here, io.SeekStart)
	return err
}

// format guesses the disk format and takes no bytes.
func (s *source) format() (string, error) {
	b, err := s.r.Peek(probeSize)
	if err != nil && err != io.EOF {
		return "", err
	}
	format := guessFormat(b)
	if format == "raw" && bytes.HasPrefix(s.last, []byte(vhdMark)) {
		format = "vhd"
	}
	return format, nil
}

// upload sends s as the data of an image, to the store of that name or, for "", to
// the default, and returns the new record. Its hash must be that of what was sent.
func upload(cmd *cobra.Command, c *client.Client, id, store string, s *source) (*registry.Image, error) {
	b := newBar(cmd, "upload")
	r := io.TeeReader(&countingReader{r: s.r, bar: b, total: s.size}, s.sum)
	err := c.UploadTo(cmd.Context(), store, id, r, s.size)
	b.end()
	if err != nil {
		return nil, err
	}
	img, err := c.Get(cmd.Context(), id)
	if err != nil {
		return nil, err
	}
	sent := hex.EncodeToString(s.sum.Sum(nil))
	if img.HashAlgo == "sha512" && !strings.EqualFold(img.HashValue, sent) {
		return nil, fmt.Errorf("upload: %w: the SHA-512 of what was sent is %s, and the server stored %s",
			client.ErrIntegrity, sent, img.HashValue)
	}
	return img, nil
}

// takeBack deletes an image that was created and then did not get its data, unless
// it is to be kept. It returns the reason with what became of the image.
func takeBack(cmd *cobra.Command, c *client.Client, id string, keep bool, reason error) error {
	if keep {
		return fmt.Errorf("%w (image %s stays without data)", reason, id)
	}
	// Also after an interruption, but not forever.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), 10*time.Second)
	defer cancel()
	if err := c.Delete(ctx, id); err != nil && !errors.Is(err, registry.ErrNotFound) {
		return fmt.Errorf("%w (image %s stays without data: it cannot be deleted: %v)", reason, id, err)
	}
	return reason
}

func newImageUploadCommand() *cobra.Command {
	var file, store string
	cmd := &cobra.Command{
		Use:   "upload ID|NAME --file FILE",
		Short: "Give data to an image that has none",
		Long: `
Give data to an image that has none. The server verifies nothing but its size; this
command compares the hash of what it sent with that of what was stored. An upload
that is cut leaves the image without data, and begins anew.`,
		Example: `  nearsight image upload debian --file debian.qcow2
  zcat debian.raw.gz | nearsight image upload debian --file - --store ceph`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usagef("--file is missing: - is standard input")
			}
			return withImage(cmd, args[0], func(c *client.Client, img *registry.Image) error {
				s, err := openSource(cmd, file)
				if err != nil {
					return err
				}
				defer s.close()
				if img, err = upload(cmd, c, img.ID, store, s); err != nil {
					return err
				}
				return printImage(cmd, img)
			})
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "`FILE` with the data, - for standard input")
	cmd.Flags().StringVar(&store, "store", "", "`NAME` of the store that takes it; see store ls")
	return cmd
}

func newImageSaveCommand() *cobra.Command {
	var file string
	var opt client.SaveOptions
	cmd := &cobra.Command{
		Use:   "save ID|NAME --file FILE",
		Short: "Fetch the data of an image into a file",
		Long: `
Fetch the data of an image into a file. The file appears under its name when all
bytes are there and their hash is right; until then they are in FILE.part. When
the command is interrupted or fails, the same command goes on from there.

With --file - the data goes to standard output, and only the exit status tells
whether it was right.

With --as the disk in the image is saved in another format, which the server computes
from the data as it is stored; see image views. Nobody knows the hash of that
beforehand: its length and version are verified.`,
		Example: `  nearsight image save debian --file debian.qcow2
  nearsight image save debian --as raw --file debian.raw
  nearsight image save debian --file - --prefer disks,ceph | md5sum`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usagef("--file is missing: - is standard output")
			}
			if opt.Parallel < 1 || opt.Parallel > 64 {
				return usagef("--parallel %d is not between 1 and 64", opt.Parallel)
			}
			if out, ok := cmd.OutOrStdout().(*os.File); file == "-" && ok && term.IsTerminal(int(out.Fd())) {
				return usagef("an image is not written to a terminal: redirect standard output")
			}
			c, err := newClient(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			img, err := findImage(cmd.Context(), c, args[0])
			if err != nil {
				return err
			}
			return save(cmd, c, img, file, opt)
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "`FILE` to write, - for standard output")
	cmd.Flags().BoolVar(&opt.Overwrite, "force", false, "replace a file that exists")
	cmd.Flags().StringVar(&opt.View, "as", "", "`FORMAT` to save the disk in: raw, qcow2, vmdk, vmdk-stream, vhd, vhd-fixed, vdi or vhdx")
	cmd.Flags().IntVar(&opt.Parallel, "parallel", 1, "fetch over so `MANY` connections at once")
	cmd.Flags().StringSliceVar(&opt.Prefer, "prefer", nil, "`STORE[,STORE...]` to read what is not cached from first; see store ls")
	return cmd
}

// save fetches the data of img into a file, or writes it to standard output.
func save(cmd *cobra.Command, c *client.Client, img *registry.Image, file string, opt client.SaveOptions) error {
	b := newBar(cmd, "save")
	opt.Progress = b.set
	opt.Retrying = func(err error, wait time.Duration) {
		b.line()
		note(cmd, "%v; trying again in %v", err, wait.Round(100*time.Millisecond))
	}
	if file == "-" {
		err := c.Copy(cmd.Context(), img, cmd.OutOrStdout(), opt)
		b.end()
		return err
	}
	err := c.Save(cmd.Context(), img, file, opt)
	b.end()
	switch {
	case errors.Is(err, os.ErrExist):
		return fmt.Errorf("%w; --force replaces it", err)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%w; what came so far is in %s.part, and the same command goes on from there", err, file)
	}
	return err
}
