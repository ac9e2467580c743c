package daemon

import (
	"context"
	"net/http"

	"github.com/sovereign-build/sovereign/internal/requests"
	"github.com/sovereign-build/sovereign/internal/witnesses"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/control"
)

// canWitness is what a sovereignd says of itself that tells witnesses.
const canWitness = "witness"

func (d *daemon) newWitnesses() {
	d.witnesses = witnesses.New(d.r, witnesses.Options{
		Report: d.report,
		Changed: func(name string) {
			if k := d.keeper(name); k != nil {
				k.look()
			}
		},
		Newest: func(ctx context.Context, name, lineage string) (witnesses.Backup, error) {
			b, err := d.backups.Newest(ctx, name, lineage)
			return witnesses.Backup(b), err
		},
	})
}

func (d *daemon) witnessHandlers(mux *http.ServeMux) {
	const path = " /v1/machines/{name}/witnesses"
	mux.HandleFunc("GET"+path, func(w http.ResponseWriter, r *http.Request) {
		list, err := d.witnesses.Ask(r.Context(), r.PathValue("name"))
		if list == nil {
			list = []runtime.WitnessStatus{}
		}
		answer(w, list, err)
	})
	mux.HandleFunc("PUT"+path, func(w http.ResponseWriter, r *http.Request) {
		var q requests.Witness
		if !control.ReadRequest(w, r, &q) {
			return
		}
		key, err := d.witnesses.Add(r.Context(), r.PathValue("name"), q.URL, q.Token, q.Key)
		answer(w, requests.WitnessAdded{Key: key}, err)
	})
	mux.HandleFunc("DELETE"+path, func(w http.ResponseWriter, r *http.Request) {
		answer(w, struct{}{}, d.witnesses.Remove(r.Context(), r.PathValue("name"), r.URL.Query().Get("url")))
	})
}
