package main

import (
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/Blockchain-CN/pheromones/conformance"
)

// What CI systems read of JUnit's XML. There is no standard: these elements and attributes are those that all of them know.
type (
	junitReport struct {
		XMLName  xml.Name     `xml:"testsuites"`
		Name     string       `xml:"name,attr"`
		Tests    int          `xml:"tests,attr"`
		Failures int          `xml:"failures,attr"`
		Errors   int          `xml:"errors,attr"`
		Skipped  int          `xml:"skipped,attr"`
		Time     string       `xml:"time,attr"` // in seconds
		Suites   []junitSuite `xml:"testsuite"`
	}
	junitSuite struct {
		Name      string      `xml:"name,attr"`
		Tests     int         `xml:"tests,attr"`
		Failures  int         `xml:"failures,attr"`
		Errors    int         `xml:"errors,attr"`
		Skipped   int         `xml:"skipped,attr"`
		Time      string      `xml:"time,attr"`
		Timestamp string      `xml:"timestamp,attr"`
		Cases     []junitCase `xml:"testcase"`
		SystemErr string      `xml:"system-err,omitempty"`
	}
	junitCase struct {
		Name    string        `xml:"name,attr"`
		Class   string        `xml:"classname,attr"`
		Time    string        `xml:"time,attr"`
		Failure *junitFailure `xml:"failure"`
		Skipped *junitSkipped `xml:"skipped"`
	}
	junitFailure struct {
		Message string `xml:"message,attr"`
		Type    string `xml:"type,attr"`
		Text    string `xml:",chardata"`
	}
	junitSkipped struct {
		Message string `xml:"message,attr"`
	}
)

// junitOf makes the report of what ran. A suite that ended early says so, and counts an error.
func junitOf(records []*record, took time.Duration) junitReport {
	report := junitReport{Name: "pheromones conformance", Time: seconds(took)}
	for _, rec := range records {
		s := junitSuite{
			Name: rec.transport + "/" + rec.name, Tests: len(rec.results), Failures: rec.tally.Failed, Skipped: rec.tally.Skipped,
			Time: fmt.Sprintf("%.3f", rec.tally.MS/1000), Timestamp: rec.began.UTC().Format("2006-01-02T15:04:05"),
		}
		if rec.tally.Stopped != "" {
			s.Errors, s.SystemErr = 1, rec.tally.Stopped
		}
		for _, r := range rec.results {
			s.Cases = append(s.Cases, junitCaseOf(r))
		}
		report.Suites = append(report.Suites, s)
		report.Tests += s.Tests
		report.Failures += s.Failures
		report.Errors += s.Errors
		report.Skipped += s.Skipped
	}
	return report
}

func junitCaseOf(r conformance.Result) junitCase {
	c := junitCase{Name: r.Rule.Name, Class: r.Rule.Clause, Time: seconds(r.Elapsed)}
	if r.Err != nil {
		c.Failure = &junitFailure{r.Rule.Sentence, "finding", strings.ToValidUTF8(r.Err.Error(), "\uFFFD")}
	} else if r.Skipped != "" {
		c.Skipped = &junitSkipped{r.Skipped}
	}
	return c
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.3f", d.Seconds()) }

// canWriteTo returns an error if a file cannot be made at path, so that nobody waits for a report in vain. An empty path is none.
func canWriteTo(path string) error {
	if path == "" {
		return nil
	}
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		return usagef("--junit %s: it is a directory", path)
	}
	if info, err := os.Stat(filepath.Dir(path)); err != nil {
		return usagef("--junit: %w", err)
	} else if !info.IsDir() {
		return usagef("--junit %s: %s is no directory", path, filepath.Dir(path))
	}
	return nil
}

// writeJUnit writes the report to a file, whole or not at all. An empty path is none.
func writeJUnit(path string, records []*record, took time.Duration) (err error) {
	if path == "" {
		return nil
	}
	text, err := xml.MarshalIndent(junitOf(records, took), "", "\t")
	if err != nil {
		return fmt.Errorf("--junit: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("--junit: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close() // which does nothing the second time
			os.Remove(f.Name())
			err = fmt.Errorf("--junit: %w", err)
		}
	}()
	if _, err = f.WriteString(xml.Header + string(text) + "\n"); err != nil {
		return err
	}
	if err = f.Chmod(0o644); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
