// Package natlab builds small internets of real kernels to try programs in: hosts that are public, behind routers whose NATs map
// and filter as one likes, behind two of them, or behind one together; whose routers forget what they knew and get other addresses;
// who move from one router to another, or lose their link for a while.
//
// It needs Linux, the right to make network namespaces (root has it), and the commands ip (iproute2) and nft (nftables). [New] says
// [ErrUnavailable] where that is missing.
//
// # Usage
//
//	lab, err := natlab.New(nil)
//	server, err := lab.Public()
//	home, err := lab.Router(natlab.NAT{Mapping: natlab.Independent, Filtering: natlab.ByAddressAndPort})
//	laptop, err := home.Host()
//	cmd := exec.Command("ping", "-c", "1", server.Addr().String())
//	err = laptop.Start(cmd)
//	…
//	err = lab.Close()
//
// # What it is made of
//
// Every host and router is a network namespace without a name, kept by a thread of this process. Nothing is left behind whatever
// ends the process: with the threads go the namespaces, what is in them, and the programs that were started there. The internet
// between is one more namespace that routes. Whoever is connected to it directly has a link of two TUN devices, between which
// packets are carried by this process, and delayed. What is behind routers is on Ethernets without delay.
//
// NATs are nftables rules: see [NAT]. IPv6 is switched off.
//
// # Tests
//
// The tests have the build tag natlab. TestKinds asks the lab's NATs what they are, by STUN. TestScenarios runs the command
// pheromones on hosts behind all pairs of them and prints what they reach, and when; TestFaults sends much between two hosts while
// their NATs forget, they move, or their links are down, and prints the longest silence. As root:
//
//	go test -tags natlab ./internal/natlab -v
//	go test -tags natlab ./internal/natlab -v -run TestScenarios -args -natlab.runs 5 -natlab.slack 1
//	go test -tags natlab ./internal/natlab -v -run TestScenarios -args -natlab.cells 'symmetric → '
//	go test -tags natlab ./internal/natlab -v -run TestFaults -timeout 2h -args -natlab.faults 20 -natlab.slack 1
//
// With -natlab.slack 1 what takes longer than is aimed at fails; without it busy machines have four times as long. -natlab.verbose
// shows what the programs print.
package natlab
