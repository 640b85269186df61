// Package gatewayapi pins the Gateway API release whose CRDs the cluster installs.
//
// Contour is built against an older release; its own go.mod must not decide
// which CRDs users see.
package gatewayapi

import _ "sigs.k8s.io/gateway-api/apis/v1" // keeps the pin through `go mod tidy`
