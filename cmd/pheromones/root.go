package main

import (
	"context"
	"fmt"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

const rootHelp = `Nodes that reach each other over short TCP connections (tcp), long ones (mux) or QUIC (quic).

A node is known by its ID, the public half of its key, and reached at an address: quic://<id>@host:port. The ID before
the @ makes sure who answers; without it anybody may.

`

const rootExample = `  pheromones demo                                        three nodes meet and talk, on this machine
  pheromones serve --service web=127.0.0.1:8080          a node that echoes messages and offers a service
  pheromones ping quic://<id>@192.0.2.7:4001             is it there, and how far?
  echo hello | pheromones send quic://<id>@192.0.2.7:4001
  pheromones pipe --listen 127.0.0.1:8081 quic://<id>@192.0.2.7:4001 web`

// execute runs the command line args and returns the exit code.
func (p *program) execute(ctx context.Context, args []string) int {
	started := false
	root := &cobra.Command{
		Use:           "pheromones",
		Short:         "Nodes that reach each other over pluggable transports",
		Long:          rootHelp + exitCodes,
		Example:       rootExample,
		Version:       version(),
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		// Whatever fails before a command has started is about the command line.
		PersistentPreRun: func(*cobra.Command, []string) { started = true },
		Run:              func(cmd *cobra.Command, _ []string) { cmd.Help() },
	}
	root.SetArgs(args)
	root.SetIn(p.in)
	root.SetOut(p.out)
	root.SetErr(p.err)
	root.SetVersionTemplate("pheromones {{.Version}}\n")
	root.PersistentFlags().BoolVarP(&p.verbose, "verbose", "v", false, "log to standard error")
	root.AddCommand(p.idCommand(), p.demoCommand(), p.serveCommand(), p.sendCommand(), p.pingCommand(), p.pipeCommand(),
		p.routesCommand(), p.netcheckCommand(), p.conformanceCommand(), p.simulateCommand())
	cmd, err := root.ExecuteContextC(ctx)
	if err != nil && !started {
		err = &exitError{exitUsage, err}
	}
	return p.report(ctx, cmd.CommandPath(), err)
}

// wantArgs accepts one argument for each of names.
func wantArgs(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return fmt.Errorf("want %s, got %d arguments", strings.Join(names, " and "), len(args))
		}
		return nil
	}
}

// jsonFlag adds --json to a command.
func (p *program) jsonFlag(cmd *cobra.Command, what string) {
	cmd.Flags().BoolVar(&p.json, "json", false, "print "+what+" (errors too: {\"error\", \"exit\"})")
}

// version says which version of the module this is, and what it was built from and with.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "of an unknown version"
	}
	setting := make(map[string]string)
	for _, s := range info.Settings {
		setting[s.Key] = s.Value
	}
	parts := []string{info.Main.Version}
	if rev := setting["vcs.revision"]; rev != "" && !strings.Contains(info.Main.Version, rev[:min(12, len(rev))]) {
		parts = append(parts, rev[:min(12, len(rev))])
	}
	return fmt.Sprintf("%s (%s, %s/%s)", strings.Join(parts, " "), info.GoVersion, setting["GOOS"], setting["GOARCH"])
}
