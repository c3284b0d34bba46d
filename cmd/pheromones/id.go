package main

import (
	"github.com/spf13/cobra"

	"github.com/Blockchain-CN/pheromones/identity"
)

func (p *program) idCommand() *cobra.Command {
	var file, dir string
	cmd := &cobra.Command{
		Use:   "id",
		Short: "Show the ID of a key, making the key if there is none",
		Long: `Prints the ID of a key on standard output. If the file is missing a key is made, which only its owner can read, and
standard error says so. A file that is there is never written.`,
		Example: `  pheromones id                    the key of this user's node, which serve uses too
  pheromones id --dir /srv/node    the key of the node whose folder that is
  pheromones id --key alice.key    any file
  pheromones id --json             {"id": …, "key": the file, "made": whether it is new}`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if file != "" && dir != "" {
				return usagef("--key and --dir: want one of them")
			}
			if file == "" {
				var err error
				if file, err = keyIn(dir); err != nil {
					return err
				}
			}
			key, made, err := loadKey(file)
			if err != nil {
				return err
			}
			if made {
				p.note("made a new key: %s", file)
			}
			if p.json {
				p.object(struct {
					ID   identity.ID `json:"id"`
					Key  string      `json:"key"`
					Made bool        `json:"made"`
				}{key.ID(), file, made})
				return nil
			}
			p.line("%s", key.ID())
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "key", "", "the key `file`")
	cmd.Flags().StringVar(&dir, "dir", "", "the `folder` of the node (default: pheromones in the user's folder for settings)")
	p.jsonFlag(cmd, "one object")
	return cmd
}
