package iothub

import (
	"encoding/base64"
	"encoding/binary"
	"hash/fnv"
	"strconv"
	"time"
)

// record is what a hub's registry notes of an identity beside its credentials and its documents; the identity's mutex guards it.
type record struct {
	revision     int64 // counts the changes of the identity, and makes its etag
	statusReason string
	statusAt     time.Time // of the last change of enabled; zero if there was none
	connectionAt time.Time // of the last connect or disconnect
	edge         bool
	scope        string
	tags         document // known to the service only
}

// setEnabled is called with mu held.
func (i *Identity) setEnabled(enabled bool, reason string) {
	if i.enabled != enabled {
		i.statusAt = i.hub.now()
	}
	i.enabled, i.statusReason = enabled, reason
	i.revision++
}

// etag is the version of the identity, in the form hubs have it: a number in base64; called with mu held.
func (i *Identity) etag() string {
	h := fnv.New32a()
	_, _ = h.Write([]byte(i.generation))
	return base64.StdEncoding.EncodeToString([]byte(strconv.FormatInt(int64(h.Sum32())+i.revision, 10)))
}

// twinVersion counts every change of the twin; called with mu held.
func (i *Identity) twinVersion() int64 { return i.tags.version + i.desired.version + i.report.version }

// twinEtag is the version of what the service may write of the twin; called with mu held.
func (i *Identity) twinEtag() string {
	return base64.StdEncoding.EncodeToString(binary.BigEndian.AppendUint64(nil, uint64(i.tags.version+i.desired.version)))
}
