// CoreDNS with the plugins that the tests' cluster needs. With all of its plugins, as upstream builds it, the build takes
// minutes more and hundreds of modules of cloud providers.
package main

import (
	"github.com/coredns/coredns/coremain"
	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
)

func main() { coremain.Run() }
