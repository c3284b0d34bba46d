package simulate

import "slices"

// graph is an undirected graph: the neighbours of each node, in order.
type graph [][]int32

func (g graph) add(a, b int32) {
	g[a] = append(g[a], b)
	g[b] = append(g[b], a)
}

// edges returns how many edges there are.
func (g graph) edges() int {
	n := 0
	for _, near := range g {
		n += len(near)
	}
	return n / 2
}

// component returns which nodes can be reached from one.
func (g graph) component(from int32) []bool {
	reached := make([]bool, len(g))
	reached[from] = true
	queue := []int32{from}
	for len(queue) > 0 {
		v := queue[0]
		queue = queue[1:]
		for _, w := range g[v] {
			if !reached[w] {
				reached[w] = true
				queue = append(queue, w)
			}
		}
	}
	return reached
}

// without returns the graph without the edges of some nodes.
func (g graph) without(gone []bool) graph {
	h := make(graph, len(g))
	for v, near := range g {
		if !gone[v] {
			h[v] = slices.DeleteFunc(slices.Clone(near), func(w int32) bool { return gone[w] })
		}
	}
	return h
}

// diameter returns the longest of the shortest paths between nodes that are connected. It is exact: a search runs from every
// node, 64 at once, each with a bit of a word for what it has reached.
func (g graph) diameter() int {
	longest := 0
	seen, front, next := make([]uint64, len(g)), make([]uint64, len(g)), make([]uint64, len(g))
	for first := 0; first < len(g); first += 64 {
		clear(seen)
		clear(front)
		for i := first; i < min(first+64, len(g)); i++ {
			seen[i] |= 1 << (i - first)
			front[i] |= 1 << (i - first)
		}
		for steps := 1; ; steps++ {
			clear(next)
			for v, f := range front {
				if f != 0 {
					for _, w := range g[v] {
						next[w] |= f
					}
				}
			}
			moved := uint64(0)
			for v := range next {
				next[v] &^= seen[v]
				seen[v] |= next[v]
				moved |= next[v]
			}
			if moved == 0 {
				break
			}
			longest = max(longest, steps)
			front, next = next, front
		}
	}
	return longest
}
