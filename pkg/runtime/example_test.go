package runtime_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"strings"
	"time"

	"github.com/sovereign-build/sovereign/internal/daemontest"
	"github.com/sovereign-build/sovereign/internal/sovereignd"
	"github.com/sovereign-build/sovereign/pkg/runtime"
	"github.com/sovereign-build/sovereign/pkg/runtime/guest/agent"
)

// The life of a machine: from a bundle to one whose services are healthy, and
// to nothing again.
func Example() {
	stateDir, program, bundle, done := daemontest.Example()
	defer done()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	host, err := runtime.Local(stateDir, runtime.WithProgram(program))
	if err != nil {
		log.Fatal(err)
	}
	defer host.Close()
	outbound := false
	machine, err := host.Install(ctx, bundle, "db", runtime.UpOptions{MemoryMiB: 256, Outbound: &outbound}, nil)
	if err != nil {
		log.Fatal(err)
	}
	status, err := machine.WaitReady(ctx, func(e runtime.Event) {
		if e.Phase == runtime.PhaseService || e.Phase == runtime.PhaseReady {
			fmt.Println(e.Phase, e.Text)
		}
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(status.Name, status.State, status.Machine.MemoryMiB, "MiB")

	result, err := machine.Down(ctx, 30*time.Second)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("in order:", !result.Forced)
	if _, err := machine.Remove(ctx, true); err != nil {
		log.Fatal(err)
	}
	all, err := host.Machines(ctx)
	fmt.Println(len(all), "machines,", err)
	// Output:
	// service postgresql: running, healthy
	// ready ready, 1.5 s after the kernel's start
	// db running 256 MiB
	// in order: true
	// 0 machines, <nil>
}

// ready has a machine for the other examples.
func ready(ctx context.Context) (machine *runtime.Machine, host *runtime.Host, bundle string, done func()) {
	stateDir, program, bundle, end := daemontest.Example()
	host, err := runtime.Local(stateDir, runtime.WithProgram(program))
	if err != nil {
		log.Fatal(err)
	}
	if machine, err = host.Install(ctx, bundle, "", runtime.UpOptions{}, nil); err != nil {
		log.Fatal(err)
	}
	if _, err = machine.WaitReady(ctx, nil); err != nil {
		log.Fatal(err)
	}
	return machine, host, bundle, func() {
		host.Close()
		end()
	}
}

// A host elsewhere, by any byte stream that leads to "sovereignd connect" there:
// here it is a socket of this machine.
func ExampleOver() {
	ctx := context.Background()
	_, local, _, done := ready(ctx)
	defer done()
	info, err := local.Info(ctx)
	if err != nil {
		log.Fatal(err)
	}

	host := runtime.Over(func(ctx context.Context) (net.Conn, error) {
		return sovereignd.Connect(ctx, info.StateDir) // ssh nas sovereignd connect
	}, runtime.WithName("ssh:nas"))
	defer host.Close()
	all, err := host.Machines(ctx)
	if err != nil {
		log.Fatal(err)
	}
	for _, s := range all {
		fmt.Println(s.Name, s.State)
	}
	_, err = host.Machine("mail").Status(ctx)
	fmt.Println(err)
	// Output:
	// sql running
	// ssh:nas: there is no instance "mail"
}

// A program in the guest, and what it prints.
func ExampleMachine_Exec() {
	ctx := context.Background()
	machine, _, _, done := ready(ctx)
	defer done()
	code, err := machine.Exec(ctx, agent.ExecRequest{Argv: []string{"psql"}, User: "postgres"},
		agent.ExecIO{Stdin: strings.NewReader("select 1\n"), Stdout: os.Stdout})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("it ended with", code)
	// Output:
	// [psql] as postgres: select 1
	// it ended with 3
}

// Lines of services, as they stand in their logs.
func ExampleMachine_Logs() {
	ctx := context.Background()
	machine, _, _, done := ready(ctx)
	defer done()
	err := machine.Logs(ctx, []string{"postgresql"}, false, func(l runtime.LogLine) error {
		_, err := fmt.Println(l.Service+":", l.Text)
		return err
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output:
	// postgresql: a line
}

// Another bundle is tried, and the former one comes back where it does not get
// healthy.
func ExampleMachine_Update() {
	ctx := context.Background()
	machine, _, bundle, done := ready(ctx)
	defer done()
	result, err := machine.Update(ctx, bundle, time.Minute, nil)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.Kind, result.Result == runtime.UpdateUnchanged)
	_, err = machine.Rollback(ctx, 0, nil)
	fmt.Println(err)
	// Output:
	// update true
	// sql has no bundle to go back to
}

// Whatever is there, the host runs the bundle afterwards, and keeps it running.
func ExampleHost_Deploy() {
	ctx := context.Background()
	machine, host, bundle, done := ready(ctx)
	defer done()
	plan, err := host.PlanDeploy(ctx, bundle, "")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(plan.Kind, plan.Name, "sends", plan.Transfer.Bytes, "bytes")
	if _, err := machine.Down(ctx, 0); err != nil {
		log.Fatal(err)
	}
	result, err := host.Deploy(ctx, bundle, "", runtime.UpOptions{}, time.Minute, nil)
	fmt.Println(result.Result, result.Status.State, err)
	// Output:
	// update sql sends 0 bytes
	// unchanged running <nil>
}

// What happens to a machine, as it happens.
func ExampleMachine_Watch() {
	ctx := context.Background()
	machine, _, _, done := ready(ctx)
	defer done()
	if _, err := machine.Restart(ctx, 0); err != nil {
		log.Fatal(err)
	}
	enough := errors.New("enough")
	err := machine.Watch(ctx, func(e runtime.Event) error {
		if e.Phase == runtime.PhaseStatus && e.Status.Guest.Healthy() {
			fmt.Println(e.Machine, "is healthy again")
			return enough
		}
		return nil
	})
	fmt.Println(err)
	// Output:
	// sql is healthy again
	// enough
}

// A connection to a port of the guest, whichever host it is on.
func ExampleMachine_Dial() {
	ctx := context.Background()
	machine, _, _, done := ready(ctx)
	defer done()
	conn, err := machine.Dial(ctx, 5432)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello"); err != nil {
		log.Fatal(err)
	}
	answer := make([]byte, 5)
	if _, err := io.ReadFull(conn, answer); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s\n", answer)
	// Output:
	// hello
}

// How a client gets in: do not log it, as here.
func ExampleMachine_Credentials() {
	ctx := context.Background()
	machine, _, _, done := ready(ctx)
	defer done()
	secrets, err := machine.Secrets(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(secrets)
	c, err := machine.Credentials(ctx, 5432)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(c.At("127.0.0.1:15432")) // where a forward of one's own leads there
	// Output:
	// [{postgresql owner}]
	// postgres://owner:p%40ss%2Fw%3Ard%20%25@127.0.0.1:15432/app
}

// Memory is given back to the host, and the data disk grows, while it runs.
func ExampleMachine_Grow() {
	ctx := context.Background()
	machine, _, _, done := ready(ctx)
	defer done()
	memory, err := machine.Balloon(ctx, 128<<20)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(memory.Now>>20, "of", memory.Max>>20, "MiB")
	grown, err := machine.Grow(ctx, 4<<30)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(grown.Before>>30, "GiB are", grown.Size>>30, "GiB")
	// Output:
	// 128 of 512 MiB
	// 1 GiB are 4 GiB
}
