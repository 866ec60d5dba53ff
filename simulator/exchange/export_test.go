package exchange

// Collect is for the test of the package from outside, which runs a whole simulator.
var Collect = collect
