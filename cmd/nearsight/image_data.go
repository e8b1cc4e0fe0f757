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

func newImageCreateCommand() *cobra.Command {
	var f imageFlags
	var id string
	var from dataFlags
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Create an image, with its data if there is a file or a URL",
		Long: `
Create an image. With --file it gets its data at once: the container format is
bare then unless said otherwise, and the disk format is guessed from the first
bytes of the file. (Fixed VHD files look like raw ones: say --disk-format vhd.)

With --from-url the data stays where it is, at an http or https URL that the
server can read, and the disk format is guessed from the name there. The image can
be used at once; the server reads the data once to hash it, and caches it from
then on.

If that fails or is interrupted, the image is deleted again, but for a --wait that
is interrupted. Not so with --id: a deleted id could never be used again, so the
image stays without data, for image upload or image location add to try again.`,
		Example: `  nearsight image create --name debian --file debian.qcow2
  nearsight image create --name debian --file debian.qcow2 --store ceph
  nearsight image create --name debian --from-url https://mirror.example.org/debian.qcow2 --wait`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			img, err := f.image(cmd)
			if err != nil {
				return err
			}
			if id != "" && !client.IsID(id) {
				return usagef("--id %q is not a UUID", id)
			}
			if err := from.check(cmd); err != nil {
				return err
			}
			img.ID = id
			c, err := newClient(cmd)
			if err != nil {
				return err
			}
			defer c.Close()
			switch {
			case from.file != "":
				img, err = createWithData(cmd, c, img, from.file, from.store)
			case from.url != "":
				img, err = createFromURL(cmd, c, img, &from)
			default:
				img, err = c.Create(cmd.Context(), img)
			}
			if err != nil {
				return err
			}
			return printImage(cmd, img)
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&id, "id", "", "id, a `UUID`; made by the server if it is not given")
	cmd.Flags().StringVar(&from.file, "file", "", "file with the data, - for standard input")
	cmd.Flags().StringVar(&from.store, "store", "", "`NAME` of the store that takes the file; see store ls")
	cmd.Flags().StringVar(&from.url, "from-url", "", "http or https `URL` where the data is and stays")
	from.register(cmd, "the data at the URL is hashed")
	return cmd
}

// dataFlags say where the data of a new image comes from.
type dataFlags struct {
	file, store, url string
	waitFlags
}

func (f *dataFlags) check(cmd *cobra.Command) error {
	switch {
	case f.file != "" && f.url != "":
		return usagef("the data comes either from --file or --from-url, not from both")
	case f.store != "" && f.file == "":
		return usagef("--store is for --file: it says which store takes it")
	case f.wait && f.url == "":
		return usagef("--wait is for --from-url")
	case cmd.Flags().Changed("from-url"):
		if err := checkWebURL("--from-url", f.url); err != nil {
			return err
		}
	}
	return f.waitFlags.check()
}

// createWithData creates an image and uploads a file to a store. It leaves nothing
// behind when that fails, unless the user chose the id.
func createWithData(cmd *cobra.Command, c *client.Client, img *registry.Image, file, store string) (*registry.Image, error) {
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
	if img, err = upload(cmd, c, created.ID, store, s); err != nil {
		return nil, takeBack(cmd, c, created.ID, keep, err)
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
	cmd.Flags().StringVar(&file, "file", "", "file with the data, - for standard input")
	cmd.Flags().StringVar(&store, "store", "", "`NAME` of the store that takes it; see store ls")
	return cmd
}

func newImageSaveCommand() *cobra.Command {
	var file, prefer string
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
		Example: `  nearsight image save debian --file debian.qcow2
  nearsight image save debian --file - --prefer disks,ceph | md5sum`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usagef("--file is missing: - is standard output")
			}
			if out, ok := cmd.OutOrStdout().(*os.File); file == "-" && ok && term.IsTerminal(int(out.Fd())) {
				return usagef("an image is not written to a terminal: redirect standard output")
			}
			c, err := newPreferringClient(cmd, prefer)
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
	cmd.Flags().StringVar(&prefer, "prefer", "", "`STORE[,STORE...]` to read what is not cached from first; see store ls")
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
