package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
)

// program is one of the two that are killed and started again, always on the same directories.
type program struct {
	name, path string
	args       []string
	home       string // working directory, and where its log is
	kills      int
	logged     int64 // bytes of the log at the last start

	cmd   *exec.Cmd
	in    io.WriteCloser
	ended chan struct{} // closed when it has ended; err is set before
	err   error
}

// start runs it. It appends its log to <name>.log. Lines of its standard output go to told, if
// somebody reads that.
func (p *program) start(ctx context.Context, told chan<- string) error {
	log, err := os.OpenFile(filepath.Join(p.home, p.name+".log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // the child has its own descriptor
	if p.logged, err = log.Seek(0, io.SeekEnd); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, p.path, p.args...) //nolint:gosec // the program under test
	cmd.Dir, cmd.Env, cmd.Stderr = p.home, p.environment(), log
	if p.in, err = cmd.StdinPipe(); err != nil {
		return err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	p.cmd, p.ended, p.err = cmd, ended, nil
	go func() {
		defer close(ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			select {
			case told <- lines.Text():
			default: // nobody wants to know
			}
		}
		p.err = cmd.Wait()
	}()
	return nil
}

// environment is the whole environment of the program.
func (p *program) environment() []string {
	return []string{"HOME=" + p.home, "PATH=" + os.Getenv("PATH")}
}

// kill is kill -9. It fails if the program had ended by itself.
func (p *program) kill() error {
	if err := p.running(); err != nil {
		return err
	}
	if err := p.cmd.Process.Kill(); err != nil {
		return err
	}
	<-p.ended
	p.kills++
	if state := p.cmd.ProcessState; state != nil && state.Exited() {
		return fmt.Errorf("the %s ended by itself: %w", p.name, p.err)
	}
	return nil
}

// running fails if the program has ended.
func (p *program) running() error {
	select {
	case <-p.ended:
		return fmt.Errorf("the %s ended by itself: %w", p.name, errors.Join(p.err, errors.New("see its log")))
	default:
		return nil
	}
}
