package proxy

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"nearsight/registry"
	v1 "nearsight/registry/api/v1"
)

// sendV1 answers a GET of the API of 2011, which has the data of an image where the
// newer one has its record: by the same way, under another tag and with more fields.
func (p *Proxy) sendV1(c *gin.Context, img *registry.Image, tag string, wear func(http.Header)) {
	p.serveData(c, img, dress{tag: tag, fields: wear})
}

// RegistryHandler returns the handler of the listener of the Registry API.
func (p *Proxy) RegistryHandler(calls *v1.Registry) http.Handler {
	e := gin.New()
	e.Use(noteRoute)
	p.api.Prepare(e)
	calls.Register(e)
	wrapped := p.limitGuesses(p.api.Wrap(p.limitCallers(e)))
	return p.observe(wellFormed(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/" { // there is no other version here
			r = r.Clone(r.Context())
			r.URL.Path = "/images"
		}
		wrapped.ServeHTTP(w, r)
	})))
}
