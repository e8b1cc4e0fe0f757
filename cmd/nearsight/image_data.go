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

// guessFormat returns the disk format that the first bytes of a file speak of:
// raw if it is none of the others.
func guessFormat(b []byte) string {
	for _, m := range []struct {
		offset        int
		magic, format string
	}{
		{0, "QFI\xfb", "qcow2"},
		{0, "KDMV", "vmdk"},
		{0, "conectix", "vhd"}, // of dynamic ones; fixed ones have it at their end
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
	size  int64 // -1: unknown
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
	_, err = f.Seek(here, io.SeekStart)
	return err
}

// format guesses the disk format and takes no bytes.
func (s *source) format() (string, error) {
	b, err := s.r.Peek(probeSize)
	if err != nil && err != io.EOF {
		return "", err
	}
	return guessFormat(b), nil
}

// upload sends s as the data of an image and returns the new record. Its hash
// must be that of what was sent.
func upload(cmd *cobra.Command, c *client.Client, id string, s *source) (*registry.Image, error) {
	b := newBar(cmd, "upload")
	r := io.TeeReader(&countingReader{r: s.r, bar: b, total: s.size}, s.sum)
	err := c.Upload(cmd.Context(), id, r, s.size)
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

func newImageCreateCommand() *cobra.Command {
	var f imageFlags
	var id, file string
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Create an image, with its data if there is a file",
		Long: `
Create an image. With --file it gets its data at once: the container format is
bare then unless said otherwise, and the disk format is guessed from the first
bytes of the file. (Fixed VHD files look like raw ones: say --disk-format vhd.)

If the upload fails or is interrupted, the image is deleted again. Not so with
--id: a deleted id could never be used again, so the image stays without data,
for image upload to try again.`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			img, err := f.image(cmd)
			if err != nil {
				return err
			}
			if id != "" && !client.IsID(id) {
				return usagef("--id %q is not a UUID", id)
			}
			img.ID = id
			c, err := newClient(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			if file == "" {
				img, err = c.Create(cmd.Context(), img)
			} else {
				img, err = createWithData(cmd, c, img, file)
			}
			if err != nil {
				return err
			}
			return printImage(cmd, img)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&id, "id", "", "id, a `UUID`; made by the server if it is not given")
	cmd.Flags().StringVar(&file, "file", "", "file with the data, - for standard input")
	return cmd
}

// createWithData creates an image and uploads a file. It leaves nothing behind
// when that fails, unless the user chose the id.
func createWithData(cmd *cobra.Command, c *client.Client, img *registry.Image, file string) (*registry.Image, error) {
	s, err := openSource(cmd, file)
	if err != nil {
		return nil, err
	}
	defer s.close()
	if img.ContainerFormat == "" {
		img.ContainerFormat = "bare"
	}
	if img.DiskFormat == "" {
		if img.DiskFormat, err = s.format(); err != nil {
			return nil, err
		}
		note(cmd, "the disk format seems to be %s", img.DiskFormat)
	}
	keep := img.ID != ""
	created, err := c.Create(cmd.Context(), img)
	if err != nil {
		return nil, err
	}
	if img, err = upload(cmd, c, created.ID, s); err == nil {
		return img, nil
	}
	if keep {
		return nil, fmt.Errorf("%w (image %s stays without data)", err, created.ID)
	}
	// Also after an interruption, but not forever.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), 10*time.Second)
	defer cancel()
	if err2 := c.Delete(ctx, created.ID); err2 != nil && !errors.Is(err2, registry.ErrNotFound) {
		return nil, fmt.Errorf("%w (image %s stays without data: it cannot be deleted: %v)", err, created.ID, err2)
	}
	return nil, err
}

func newImageUploadCommand() *cobra.Command {
	var file string
	cmd := &cobra.Command{
		Use:   "upload ID|NAME --file FILE",
		Short: "Give data to an image that has none",
		Args:  takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usagef("--file is missing: - is standard input")
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
			s, err := openSource(cmd, file)
			if err != nil {
				return err
			}
			defer s.close()
			if img, err = upload(cmd, c, img.ID, s); err != nil {
				return err
			}
			return printImage(cmd, img)
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "file with the data, - for standard input")
	return cmd
}

func newImageSaveCommand() *cobra.Command {
	var file string
	var force bool
	cmd := &cobra.Command{
		Use:   "save ID|NAME --file FILE",
		Short: "Fetch the data of an image into a file",
		Long: `
Fetch the data of an image into a file. The file appears under its name when all
bytes are there and their hash is right; until then they are in FILE.part. When
the command is interrupted or fails, the same command goes on from there.

With --file - the data goes to standard output, and only the exit status tells
whether it was right.`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usagef("--file is missing: - is standard output")
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
			return save(cmd, c, img, file, force)
		},
	}
	cmd.Flags().StringVar(&file, "file", "", "file to write, - for standard output")
	cmd.Flags().BoolVar(&force, "force", false, "replace a file that exists")
	return cmd
}

// save fetches the data of img into a file, or writes it to standard output.
func save(cmd *cobra.Command, c *client.Client, img *registry.Image, file string, force bool) error {
	b := newBar(cmd, "save")
	opt := client.SaveOptions{
		Overwrite: force,
		Progress:  b.set,
		Retrying: func(err error, wait time.Duration) {
			b.line()
			note(cmd, "%v; trying again in %v", err, wait.Round(100*time.Millisecond))
		},
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
