package harness

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// The protocol between the program that runs rounds and its children is this: a child that is started as "-list" prints the list of
// its measures, as JSON; one started as "-child KEY -time DURATION" runs one measure and prints a line of JSON, the Report.

// Report is what a child prints.
type Report struct {
	Figures
	Skip  string `json:"skip,omitempty"`  // why it cannot be measured
	Error string `json:"error,omitempty"` // what has failed
}

// List prints what there is to measure.
func List(w io.Writer, measures []Measure) error { return json.NewEncoder(w).Encode(measures) }

// Child runs one measure and prints its Report. It fails only if there is no such measure, or if w does.
func Child(w io.Writer, measures []Measure, key string, d time.Duration) error {
	for _, m := range measures {
		if m.Key() != key {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), 20*d+2*time.Minute)
		defer cancel()
		var r Report
		var err error
		switch r.Figures, err = m.Run(ctx, d); {
		case errors.Is(err, errors.ErrUnsupported):
			r.Skip = err.Error()
		case err != nil:
			r.Error = err.Error()
		}
		return json.NewEncoder(w).Encode(r)
	}
	return fmt.Errorf("there is no measure %q", key)
}
