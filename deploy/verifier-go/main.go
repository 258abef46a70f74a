// Command verifier checks a bundle's ledger with nothing of Motet's: the checkpoint's signature and the tree over its entries.
// Usage: verifier VKEY BUNDLE.zip. Exit 0 holds, 1 does not, 64 usage.
package main

import (
	"archive/zip"
	"encoding/base64"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

func must(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "does not hold:", err)
		os.Exit(1)
	}
}

func read(archive *zip.ReadCloser, name string) string {
	file, err := archive.Open(name)
	must(err)
	data, err := io.ReadAll(file) // checks the CRC, too
	must(err)
	return string(data)
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: verifier VKEY BUNDLE.zip")
		os.Exit(64)
	}
	verifier, err := note.NewVerifier(os.Args[1])
	must(err)
	archive, err := zip.OpenReader(os.Args[2])
	must(err)
	for _, file := range archive.File { // a bundle is stored, so that nothing in it is larger than it
		if file.Method != zip.Store || file.UncompressedSize64 > 256<<20 {
			must(fmt.Errorf("%q is compressed or too large", file.Name))
		}
	}
	signed, err := note.Open([]byte(read(archive, "checkpoint")), note.VerifierList(verifier))
	must(err)
	var size int64
	var origin, root string
	_, err = fmt.Sscanf(signed.Text, "%s\n%d\n%s\n", &origin, &size, &root)
	must(err)
	var hashes []tlog.Hash
	reader := tlog.HashReaderFunc(func(indexes []int64) ([]tlog.Hash, error) {
		out := make([]tlog.Hash, 0, len(indexes))
		for _, index := range indexes {
			out = append(out, hashes[index])
		}
		return out, nil
	})
	entries := strings.TrimSuffix(read(archive, "entries.jsonl"), "\n")
	lines := strings.Split(entries, "\n")
	for n, line := range lines {
		stored, err := tlog.StoredHashes(int64(n), []byte(line), reader)
		must(err)
		hashes = append(hashes, stored...)
	}
	tree, err := tlog.TreeHash(int64(len(lines)), reader)
	must(err)
	if origin != verifier.Name() || size != int64(len(lines)) || root != base64.StdEncoding.EncodeToString(tree[:]) {
		must(fmt.Errorf("the entries are not those of the checkpoint"))
	}
	fmt.Printf("holds: %s, %d entries, root %s\n", origin, size, root)
}
