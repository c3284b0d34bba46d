package main

func Example() {
	main()
	// Output: yoghurt says: hello, luda
}
