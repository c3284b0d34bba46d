// Package natlab builds small internets of real kernels to try programs in: hosts that are public, behind routers whose NATs map and filter as one likes, behind two
// of them, or behind one together; whose routers forget what they knew and get other addresses; who move from one router to another, or lose their link for a while.
//
// It needs Linux, the right to make network namespaces (root has it), and the commands ip (iproute2) and nft (nftables). [New] says [ErrUnavailable] where that is missing.
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
// Every host and router is a network namespace without a name, kept by a thread of this process. Nothing is left behind whatever ends the process: with the threads go the
// namespaces, what is in them, and the programs that were started there. The internet between is one more namespace that routes. Whoever is connected to it directly has a link of two TUN
// devices, between which packets are carried by this process, and delayed. What is behind routers is on Ethernets without delay.
//
// NATs are nftables rules: see [NAT]. IPv6 is switched off.
package natlab

// The tests, with the build tag natlab, try the kinds of NAT, and the command pheromones among them.
