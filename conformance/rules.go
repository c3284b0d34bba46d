package conformance

// table is the suite: every rule, in the order of SPEC.md.
func table() []Rule {
	return []Rule{
		{"address-round-trip", "AD1", "Addresses survive being written and read, and equal ones are equal values.", 0, false, addrRoundTrip},
		{"address-refused", "AD2", "ParseAddr refuses what is no address.", 0, false, addrRefused},
		{"address-refused-by-transport", "AD2", "Dial and Listen refuse an Addr whose HostPort is none.", 0, false, addrRefusedByTransport},
		{"listener-address", "AD3", "A listener's Addr has scheme, real port and ID, and can be dialled.", 0, false, listenerAddr},
		{"listen-with-own-id", "AD3", "Listening at an address with our own ID works like one without.", 0, false, listenerAddrGiven},
		{"dial-by-name", "AD3", "A listener can be dialled by a DNS name of its host.", needNetwork, false, dialByName},
		{"dial-ipv6", "AD3", "A listener at an IPv6 address says so and can be dialled.", needNetwork, false, dialIPv6},
		{"foreign-scheme", "AD4", "Dial and Listen refuse addresses of another scheme.", 0, false, foreignScheme},

		{"both-know", "ID1", "Both sides know each other's ID.", 0, false, bothKnow},
		{"wrong-peer", "ID2", "Dialling with the ID of another peer fails, names the one that answered, and the other side's connection carries nothing.", 0, false, wrongPeer},
		{"any-peer", "ID3", "Dialling without an ID succeeds, and Info says who answered.", 0, false, anyPeer},
		{"resumed-peer", "ID4", "Later connections to the same peer prove it as the first did.", 0, false, resumedPeer},
		{"another-at-same-address", "ID4", "Another peer at an address visited before does not pass for the first.", 0, false, anotherAtSameAddress},
		{"info", "ID5", "Info says who dialled and has both addresses with their IDs, also when the connection has ended.", 0, false, info},

		{"bytes-in-order", "ST1", "Bytes arrive in order whatever the sizes of writes, both ways at once.", 0, false, bytesInOrder},
		{"small-reads", "ST1", "Bytes arrive in order when read one by one.", 0, false, smallReads},
		{"large-write", "ST1", "One large Write arrives, and its slice is the caller's when it has returned.", 0, false, largeWrite},
		{"nettest", "ST2", "Streams satisfy nettest.TestConn.", needTesting, true, netTest},
		{"close-write-eof", "ST3", "After CloseWrite the peer reads everything, then io.EOF again and again; the other direction goes on.", 0, false, closeWriteEOF},
		{"close-write-wakes", "ST3", "CloseWrite ends a Read of the peer that is under way.", 0, false, closeWriteWakes},
		{"write-after-close-write", "ST4", "Write after CloseWrite is net.ErrClosed; a second CloseWrite is no error.", 0, false, writeAfterCloseWrite},
		{"no-false-eof", "ST5", "A connection that is closed does not look like the end of a stream, not even with CodeNone.", 0, false, noFalseEOF},
		{"close-delivers", "ST6", "What was written just before Close arrives, followed by io.EOF.", 0, false, closeDelivers},
		{"close-delivers-all", "ST6", "Close with as much under way as fits delivers all of it once the peer reads.", 0, false, closeDeliversAll},
		{"close-with-unread", "ST6", "Close delivers what was written also when bytes from the peer are unread.", 0, false, closeWithUnread},
		{"close-both", "ST6", "When both sides close, what each wrote before the other's Close arrives.", 0, false, closeBoth},
		{"close-locally", "ST6", "Close ends our Read and Write under way, and later ones, with net.ErrClosed; closing again is no error.", 0, false, closeLocally},
		{"write-after-peer-close", "ST7", "The peer's writes fail with CodeClosed after Close; it still reads io.EOF.", 0, false, writeAfterPeerClose},
		{"blocked-write-at-peer-close", "ST7", "Close ends a blocked Write of the peer with CodeClosed.", 0, false, blockedWriteAtPeerClose},
		{"reset-remote", "ST8", "Reset reaches the peer's reads and writes in every state of the stream.", 0, true, resetRemote},
		{"reset-local", "ST9", "After Reset our reads and writes, under way and later, fail with its code.", 0, false, resetLocal},
		{"reset-unread", "ST9", "After Reset bytes that had come are not read any more.", 0, false, resetUnread},
		{"reset-after-close", "ST9", "Reset of a stream that was closed changes nothing.", 0, false, resetAfterClose},
		{"reset-codes", "ST10", "Every code of 32 bits arrives as it was sent.", 0, false, resetCodes},
		{"empty-writes", "ST12", "Writing and reading no bytes has no effect.", 0, false, emptyWrites},
		{"concurrent-writes", "ST13", "The bytes of concurrent Writes are not mixed.", 0, false, concurrentWrites},
		{"stream-addresses", "ST14", "A stream's addresses are its connection's.", 0, false, streamAddrs},
		{"thousand-streams", "ST15", "A thousand streams at once carry their own bytes.", 0, true, thousandStreams},
		{"64-mib-each-way", "ST15", "64 MiB arrive each way at once, unchanged.", 0, true, sixtyFourMiB},
	}
}
