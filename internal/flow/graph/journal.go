package graph

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hubhop-iot/hubhop/internal/flow/node"
	"github.com/hubhop-iot/hubhop/telemetry/message"
	"github.com/hubhop-iot/hubhop/telemetry/outbox"
)

// journal keeps what the operators of a graph see, in that order: messages and ticks. A checkpoint
// has all that the graph remembers when it has processed the journal up to a position. It is
// taken down a second after the first event that the last one does not have, and written when
// everything that has come out until then is safe. Then the journal up to there is of no use any
// more.
//
// All of it belongs to the goroutine of the operators.
type journal struct {
	g   *Graph
	box *outbox.Box

	pos        uint64    // processed up to here
	saved      uint64    // the checkpoint is of this position
	total      int64     // bytes that were appended, or read at the start
	savedTotal int64     // of these, what the checkpoint covers
	stateBytes int       // of the last checkpoint
	since      time.Time // of the first event behind the last snapshot; zero: there is none
	stale      bool      // the checkpoint is of another graph, or of another journal
	shape      shape     // of the plan that runs
	isNew      bool      // there is no checkpoint, and nothing that it could be of
	waits      *snapshot // until its outputs are safe; nil: none does
	retry      time.Time // not before this is a checkpoint tried again

	buf  []byte
	ms   []message.Message
	id   string   // of the box
	seqs []uint64 // of the messages that were appended last
	ends []int    // of those in buf
}

// snapshot is a checkpoint that is not written yet.
type snapshot struct {
	pos   uint64
	total int64
	file  []byte
}

const (
	journalName     = "journal" // a directory
	checkpointName  = "checkpoint"
	checkpointMagic = "hubhopC2"
	formerMagic     = "hubhopCP" // of checkpoints without their plan
	checkpointEvery = 1 << 20    // bytes of the journal
	checkpointPause = time.Second
	again           = 5 * time.Second // between attempts at a disk
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (j *journal) path(name string) string { return filepath.Join(j.g.opt.Dir, name) }

// start restores what the graph remembers, and processes again what the checkpoint does not cover.
// It tries again until it succeeds or ctx ends; then it returns false.
func (j *journal) start(ctx context.Context) bool {
	g := j.g
	if !g.plan.Stateful() && !j.isLeft() {
		g.forget()
		return true
	}
	for {
		after, err := j.open()
		if err == nil {
			g.well("journal")
			if !j.replay(ctx, after) || g.runs != g.core && !j.change(ctx) || j.isNew && !j.settle(ctx) {
				return false
			}
			break
		}
		text := fmt.Sprintf("the journal in %s cannot be opened, and is tried again: %v", g.opt.Dir, err)
		g.ill("journal", text)
		if _, ok := g.bursts.open("journal", g.now()); ok {
			g.log("flow " + g.plan.Name + ": " + text)
		}
		sleep(ctx, again)
		if ctx.Err() != nil {
			return false
		}
	}
	if g.plan.Stateful() {
		return true
	}
	return j.leave(ctx)
}

// isLeft says whether an older plan of a graph that remembers nothing now has left a journal.
func (j *journal) isLeft() bool {
	names, err := j.g.opt.FS.List(j.path(journalName))
	return err == nil && len(names) > 0
}

// leave gives up a journal that is not needed any more, when all that was in it is safe.
func (j *journal) leave(ctx context.Context) bool {
	if !j.awaitSafe(ctx) || j.isBehind() && !j.settle(ctx) {
		return false
	}
	j.close()
	j.g.forget()
	return true
}

// forget goes on without a journal.
func (g *Graph) forget() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.j = nil
}

// open opens the journal, and restores the checkpoint. It returns the position behind which the
// messages are that must be processed again.
func (j *journal) open() (after uint64, err error) {
	g := j.g
	if err := g.opt.FS.MkdirAll(g.opt.Dir); err != nil {
		return 0, err
	}
	at, before, err := j.read()
	if err != nil {
		return 0, err
	}
	if j.box == nil {
		j.box, err = outbox.Open(j.path(journalName), outbox.Options{
			MaxBytes: 2*g.set.JournalBytes + int64(g.set.MaxBytes) + 4<<20, // never full: take waits before
			Full:     outbox.Block, FS: g.opt.FS, Report: j.report,
		})
		if err != nil {
			return 0, err
		}
	}
	if last := j.box.Last(); at > last {
		g.damaged(1, fmt.Sprintf("the journal has lost what came after its checkpoint: it ends at %d, and the checkpoint is of %d", last, at))
		at, j.stale = 0, true
	}
	if err := j.ackUpTo(at); err != nil {
		return 0, err
	}
	j.pos, j.saved = at, at
	j.shape, j.isNew = g.plan.shape(), before == nil && j.box.Last() == 0
	if before != nil {
		j.stateBytes = len(before.state)
		j.resume(before)
	}
	return at, nil
}

// ackUpTo takes out of the journal what the checkpoint covers, if a crash came between the two.
func (j *journal) ackUpTo(at uint64) error {
	var batch outbox.Batch
	defer batch.Release()
	var positions []uint64
	for {
		records, err := j.box.Read(&batch, 256, 1<<20, outbox.Part{Until: at + 1})
		if err != nil || len(records) == 0 {
			return err
		}
		positions = positions[:0]
		for i := range records {
			positions = append(positions, records[i].Pos)
		}
		if err := j.box.Ack(positions...); err != nil {
			return err
		}
	}
}

// report takes what the box has to say.
func (j *journal) report(p outbox.Problem) {
	text := "journal: " + p.Text
	if p.Err != nil {
		text += ": " + p.Err.Error()
	}
	switch p.Kind {
	case outbox.Degraded:
		text = fmt.Sprintf("the disk does not take the journal, so nothing is acknowledged: %v", p.Err)
		j.g.ill("journal", text)
	case outbox.Recovered:
		j.g.well("journal")
	case outbox.Corrupt, outbox.Missing:
		if p.Messages > 0 { // else a crash may have left it, and nothing is lost
			j.g.noticed(p.Messages, text)
		}
	default:
	}
	if _, ok := j.g.bursts.open("journal\x00"+fmt.Sprint(p.Kind), j.g.now()); ok {
		j.g.log("flow " + j.g.plan.Name + ": " + text)
	}
}

// read reads the checkpoint: its position and what is behind it. One that is damaged counts as
// none: what is left of the journal is processed then.
func (j *journal) read() (at uint64, before *past, err error) {
	file, err := j.g.opt.FS.Open(j.path(checkpointName), os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil, nil
	}
	if err != nil {
		return 0, nil, err
	}
	var state []byte
	size, err := file.Size()
	if err == nil {
		state = make([]byte, size)
		if _, err = file.ReadAt(state, 0); errors.Is(err, io.EOF) {
			err = nil // it is shorter than it says, or empty: its checksum tells
		}
	}
	if err2 := file.Close(); err == nil {
		err = err2
	}
	if err != nil {
		return 0, nil, err
	}
	body, isOld, ok := checked(state)
	if !ok {
		j.g.damaged(1, fmt.Sprintf("the checkpoint %s is damaged: the graph has forgotten what it remembered; the file is kept as %s.bad",
			j.path(checkpointName), checkpointName))
		return 0, nil, j.g.opt.FS.Rename(j.path(checkpointName), j.path(checkpointName+".bad"))
	}
	d := decoder{b: body}
	at = d.uint()
	before = &past{isOld: isOld}
	if isOld {
		if d.text() != j.g.plan.fingerprint() {
			j.g.log(fmt.Sprintf("flow %s: the graph has changed: its operators begin anew, and take what waits in the journal", j.g.plan.Name))
			j.stale = true
			return at, nil, nil
		}
		before.isSame = true
	} else {
		text, now := d.bytes(), j.g.plan.shape()
		before.isSame = bytes.Equal(text, now.encode())
		if err := json.Unmarshal(text, &before.shape); err != nil {
			return 0, nil, fmt.Errorf("the plan in %s: %w", j.path(checkpointName), err)
		}
	}
	before.state = d.b
	return at, before, nil
}

// checked takes the frame of a checkpoint away.
func checked(file []byte) (body []byte, isOld, ok bool) {
	const head = len(checkpointMagic) + 4
	if len(file) < head {
		return nil, false, false
	}
	magic := string(file[:len(checkpointMagic)])
	d := decoder{b: file[len(checkpointMagic):head]}
	ok = d.fixed32() == crc32.Checksum(file[head:], castagnoli)
	return file[head:], magic == formerMagic, ok && (magic == checkpointMagic || magic == formerMagic)
}

// replay processes what is in the journal behind a position. It returns false when ctx has ended.
func (j *journal) replay(ctx context.Context, after uint64) bool {
	g := j.g
	var batch outbox.Batch
	defer batch.Release()
	index := map[string]int{}
	for i, name := range j.shape.Sources {
		index[name] = i
	}
	part := outbox.Part{After: after, Until: j.box.Last() + 1}
	var turn []arrival
	isFirst := true
	for part.After+1 < part.Until && ctx.Err() == nil {
		records, err := j.box.Read(&batch, maxTurn, 1<<20, part)
		if err != nil {
			return false
		}
		if len(records) == 0 {
			if !j.box.Stats().Unreadable {
				break // what would come next was damaged, as the box has said
			}
			sleep(ctx, time.Second)
			continue
		}
		if isFirst {
			j.saved, isFirst = max(j.saved, records[0].Pos-1), false
		}
		for i := range records {
			r := &records[i]
			part.After = r.Pos
			j.total += int64(len(r.Body))
			box, seq, _ := outbox.SplitID(r.ID)
			p := position{box: box, seq: seq}
			e, err := decodeEvent(slices.Clone(r.Body))
			if err != nil {
				g.damaged(1, fmt.Sprintf("a record of the journal cannot be read and is passed over: %v", err))
				j.moveTo(r.Pos)
				continue
			}
			g.mu.Lock()
			ok := g.waitForRoom(ctx, -1, 0)
			if ok && e.isMessage() {
				g.inFlight++
				g.bytes += e.m.Size()
			}
			g.mu.Unlock()
			if !ok {
				return false
			}
			g.current = 0
			if e.nodes != nil {
				g.runs.flush(e.nodes, p)
				g.publish(nil)
			} else if e.fronts != nil {
				fronts := slices.Clone(g.runs.fronts)
				for name, t := range e.fronts {
					if src, ok := index[name]; ok {
						fronts[src] = t
					}
				}
				g.runs.tick(fronts, p)
				g.publish(nil)
			} else {
				a := arrival{Delivery: node.Delivery{Message: e.m}, size: e.m.Size(), taken: r.Created.UnixNano()}
				if src, ok := index[e.source]; ok {
					a.src = int32(src)
					g.runs.feed(src, &a.Message, p)
				} else {
					g.runs.lose(g.runs.sources[0], Orphaned, fmt.Errorf("the graph has no source %s any more", e.source), &e.m)
				}
				turn = append(turn[:0], a)
				g.publish(turn)
			}
			j.moveTo(r.Pos)
		}
		j.covered()
		if g.plan.Stateful() {
			j.checkpoint()
		}
	}
	if ctx.Err() != nil {
		return false
	}
	if last := j.box.Last(); last > j.pos {
		j.moveTo(last) // what was damaged is lost
	}
	if isFirst {
		j.saved = j.pos
	}
	return true
}

// covered tells others how much of the journal no checkpoint covers.
func (j *journal) covered() {
	j.g.mu.Lock()
	defer j.g.mu.Unlock()
	j.g.journaled = j.total - j.savedTotal
	j.g.settled()
}

// append writes messages to the journal and acknowledges them. It returns how many of them it has
// come to; false when ctx has ended.
func (j *journal) append(ctx context.Context, turn []arrival) (n int, ok bool) {
	g := j.g
	began := g.clock()
	j.buf, j.ms, j.seqs, j.ends = j.buf[:0], j.ms[:0], j.seqs[:0], j.ends[:0]
	for n < len(turn) && (n == 0 || len(j.buf) < 1<<20) {
		a := &turn[n]
		n++
		j.seqs = append(j.seqs, uint64(len(j.ends)))
		if why := g.set.check(&a.Message); why != nil {
			g.core.lose(g.core.sources[a.src], TooLarge, why, &a.Message)
			a.lost = true
			continue
		}
		start := len(j.buf)
		j.buf = appendMessage(j.buf, g.plan.Sources[a.src].Name, &a.Message)
		if size := len(j.buf) - start; size > outbox.MaxRecord-64 {
			g.core.lose(g.core.sources[a.src], TooLarge, fmt.Errorf("the message has %d bytes: the journal takes at most %d", size, outbox.MaxRecord-64), &a.Message)
			a.lost = true
			j.buf = j.buf[:start]
			continue
		}
		j.ends = append(j.ends, len(j.buf))
	}
	start := 0
	for _, end := range j.ends {
		j.ms = append(j.ms, message.Message{Body: j.buf[start:end]})
		start = end
	}
	if !j.store(ctx) {
		return 0, false
	}
	first := j.firstSeq(len(j.ends))
	for i := range turn[:n] {
		a := &turn[i]
		j.seqs[i] += first
		if !a.lost && a.From != nil {
			g.acks = append(g.acks, ack{a.From, a.Ticket})
			a.From = nil
		}
	}
	g.tickets = acknowledge(g.acks, g.tickets)
	clear(g.acks)
	g.acks = g.acks[:0]
	if g.opt.Stage != nil {
		took := g.now().Sub(began)
		for range n {
			g.opt.Stage("journal", took)
		}
	}
	return n, true
}

// firstSeq notes where the journal ends now, and returns the seq of the first of the last k
// records.
func (j *journal) firstSeq(k int) uint64 {
	s := j.box.Stats()
	j.id = s.ID
	j.moveTo(j.box.Last())
	return s.LastSeq + 1 - uint64(k)
}

// moveTo notes that everything up to a position of the journal is processed, or about to be.
func (j *journal) moveTo(pos uint64) {
	j.pos = pos
	if j.since.IsZero() {
		j.since = j.g.now()
	}
}

// store appends j.ms. It returns false when ctx has ended.
func (j *journal) store(ctx context.Context) bool {
	for len(j.ms) > 0 {
		err := j.box.AppendDurable(ctx, j.ms...)
		if err == nil {
			break
		}
		if ctx.Err() != nil || errors.Is(err, outbox.ErrClosed) {
			return false
		}
		j.g.ill("journal", "the journal takes nothing: "+err.Error())
		sleep(ctx, again)
		j.g.well("journal")
	}
	j.total += int64(len(j.buf))
	clear(j.ms)
	j.covered()
	return true
}

// rest gives back the memory that only a busy journal needs.
func (j *journal) rest() { j.buf, j.ms, j.seqs, j.ends = nil, nil, nil, nil }

// position names the i-th message of the last append.
func (j *journal) position(i int) position { return position{box: j.id, seq: j.seqs[i]} }

// appendTick writes to the journal how far the frontiers are moved.
func (j *journal) appendTick(ctx context.Context, fronts []node.Time) (p position, ok bool) {
	return j.appendOne(ctx, appendTick(j.buf[:0], j.g.plan.Sources, fronts))
}

// appendFlush writes to the journal that some nodes give out all that they hold.
func (j *journal) appendFlush(ctx context.Context, nodes []string) (p position, ok bool) {
	return j.appendOne(ctx, appendFlush(j.buf[:0], nodes))
}

// appendOne writes an event that is no message.
func (j *journal) appendOne(ctx context.Context, event []byte) (p position, ok bool) {
	j.buf = event
	j.ms = append(j.ms[:0], message.Message{Body: j.buf})
	if !j.store(ctx) {
		return p, false
	}
	seq := j.firstSeq(1)
	return position{box: j.id, seq: seq}, true
}

// nextCheckpoint returns when there is something to do for the checkpoint although nothing comes.
func (j *journal) nextCheckpoint() (at time.Time, ok bool) {
	if j.waits == nil {
		return j.due(), j.isBehind()
	}
	return j.retry, j.isSafe()
}

// due returns when the next snapshot is taken at the latest. One that is large comes less often, so
// that checkpoints cost the disk about a MiB a second at most, however little comes in.
func (j *journal) due() time.Time {
	return j.since.Add(max(checkpointPause, checkpointPause*time.Duration(j.stateBytes)/checkpointEvery))
}

// isBehind says that the checkpoint does not cover everything.
func (j *journal) isBehind() bool { return j.pos > j.saved || j.stale }

// isSafe says whether everything is safe that a snapshot waits for.
func (j *journal) isSafe() bool {
	j.g.mu.Lock()
	defer j.g.mu.Unlock()
	return j.g.older == 0
}

// checkpoint takes a snapshot when it is time for one, and writes it when its outputs are safe.
func (j *journal) checkpoint() {
	g := j.g
	now := g.now()
	if j.waits == nil && j.isBehind() && (j.stale || !now.Before(j.due()) ||
		j.total-j.savedTotal >= max(checkpointEvery, 2*int64(j.stateBytes))) {
		j.snapshot()
	}
	if j.waits == nil || !j.isSafe() || now.Before(j.retry) {
		return
	}
	if err := j.write(j.waits.file); err != nil {
		j.retry = now.Add(again)
		text := fmt.Sprintf("the checkpoint cannot be written, and is tried again: %v", err)
		g.ill("checkpoint", text)
		if _, ok := g.bursts.open("checkpoint", now); ok {
			g.log("flow " + g.plan.Name + ": " + text)
		}
		return
	}
	g.well("checkpoint")
	w := j.waits
	j.waits, j.stale = nil, false
	j.stateBytes, j.savedTotal = len(w.file), w.total
	j.ack(j.saved, w.pos)
	j.saved = w.pos
	g.mu.Lock()
	g.waits = false
	g.mu.Unlock()
	j.covered()
}

// snapshot takes down what the graph remembers now.
func (j *journal) snapshot() {
	g := j.g
	b := append(make([]byte, 0, j.stateBytes+1024), checkpointMagic...)
	b = append(b, 0, 0, 0, 0)
	head := len(b)
	e := encoder{b: b}
	e.uint(j.pos)
	e.bytes(j.shape.encode())
	m := g.runs.recall()
	e.memories(&m)
	putFixed32(e.b[head-4:], crc32.Checksum(e.b[head:], castagnoli))
	j.waits = &snapshot{pos: j.pos, total: j.total, file: e.b}
	j.since = time.Time{}
	g.mu.Lock()
	g.gen++
	g.older = len(g.roots) - len(g.free)
	g.waits = true
	g.mu.Unlock()
}

// write replaces the checkpoint.
func (j *journal) write(data []byte) error {
	disk, temp := j.g.opt.FS, j.path(checkpointName+".tmp")
	file, err := disk.Open(temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(data, 0)
	if err == nil {
		err = file.Sync()
	}
	if err2 := file.Close(); err == nil {
		err = err2
	}
	if err == nil {
		err = disk.Rename(temp, j.path(checkpointName))
	}
	if err == nil {
		err = disk.SyncDir(j.g.opt.Dir)
	}
	return err
}

// ack takes the records behind one position up to another one out of the journal.
func (j *journal) ack(after, to uint64) {
	var room [4096]uint64
	for after < to {
		n := 0
		for ; n < len(room) && after < to; n++ {
			after++
			room[n] = after
		}
		if err := j.box.Ack(room[:n]...); err != nil {
			j.g.log(fmt.Sprintf("flow %s: journal: %v", j.g.plan.Name, err))
		}
	}
}

// close writes a last checkpoint, if it can be written now, and closes the journal.
func (j *journal) close() {
	if j.box == nil {
		return
	}
	if j.g.plan.Stateful() {
		j.checkpoint() // one that waits
		if j.waits == nil && j.isBehind() {
			j.snapshot()
			j.checkpoint()
		}
	}
	if err := j.box.Close(); err != nil {
		j.g.log(fmt.Sprintf("flow %s: %v", j.g.plan.Name, err))
	}
	j.box = nil
}
