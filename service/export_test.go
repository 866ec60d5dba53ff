package service

// SelfSigned makes a certificate for the tests of the whole service.
var SelfSigned = selfSigned
