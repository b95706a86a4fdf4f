package iothub

import (
	"encoding/json"
	"errors"
	"net/http"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// bulkDevice is one line of a bulk request.
type bulkDevice struct {
	wantedDevice
	ID         string          `json:"id"`
	ImportMode string          `json:"importMode"`
	Etag       string          `json:"eTag"`
	TwinEtag   string          `json:"twinETag"`
	Tags       json.RawMessage `json:"tags"`
	Properties *struct {
		Desired json.RawMessage `json:"desired"`
	} `json:"properties"`
}

type bulkError struct {
	DeviceID    string `json:"deviceId"`
	ErrorCode   string `json:"errorCode"`
	ErrorStatus string `json:"errorStatus"`
}

type bulkResult struct {
	IsSuccessful bool        `json:"isSuccessful"`
	Errors       []bulkError `json:"errors"`
	Warnings     []string    `json:"warnings"`
}

// bulk creates, updates and deletes up to a hundred identities. It does what it can. If something
// failed the answer is a 400 that says what.
func (s *hubService) bulk(w http.ResponseWriter, r *http.Request) (any, error) {
	var devices []bulkDevice
	if err := decodeBody(r, &devices); err != nil {
		return nil, err
	}
	if len(devices) == 0 || len(devices) > bulkLimit {
		return nil, azure.Errorf(http.StatusBadRequest, "TooManyDevices", "%d devices, a request may have 1 to %d.", len(devices), bulkLimit)
	}
	result := bulkResult{IsSuccessful: true, Errors: []bulkError{}, Warnings: []string{}}
	for _, d := range devices {
		err := s.bulkOne(d)
		if err == nil {
			continue
		}
		result.IsSuccessful = false
		failed := bulkError{DeviceID: d.ID, ErrorCode: "ServerError", ErrorStatus: err.Error()}
		if e, ok := errors.AsType[*azure.Error](err); ok {
			failed.ErrorCode = e.Code
		}
		result.Errors = append(result.Errors, failed)
	}
	if !result.IsSuccessful {
		w.Header().Set("Content-Type", "application/json; charset=utf-8")
		w.WriteHeader(http.StatusBadRequest)
	}
	return result, nil
}

func (s *hubService) bulkOne(d bulkDevice) error {
	exists := s.Identity(d.ID) != nil
	anyVersion := azure.IfMatch{Given: true}
	put := func(match azure.IfMatch) error {
		i, err := s.put(d.ID, d.wantedDevice, match)
		if err != nil || d.Tags == nil && d.Properties == nil {
			return err
		}
		return s.bulkTwin(i, d, azure.IfMatch{})
	}
	switch strings.ToLower(d.ImportMode) {
	case "create":
		return put(azure.IfMatch{})
	case "update":
		return put(anyVersion)
	case "updateifmatchetag":
		return put(azure.IfMatch{Given: true, Etag: d.Etag})
	case "createorupdate", "createorupdateifmatchetag", "":
		match := azure.IfMatch{Given: exists}
		if strings.HasSuffix(strings.ToLower(d.ImportMode), "etag") {
			match.Etag = d.Etag
		}
		return put(match)
	case "delete":
		return s.remove(d.ID, anyVersion)
	case "deleteifmatchetag":
		return s.remove(d.ID, azure.IfMatch{Given: true, Etag: d.Etag})
	case "updatetwin", "updatetwinifmatchetag":
		i := s.Identity(d.ID)
		if i == nil {
			return noSuchDevice(d.ID)
		}
		match := anyVersion
		if strings.HasSuffix(strings.ToLower(d.ImportMode), "etag") {
			match.Etag = d.TwinEtag
		}
		return s.bulkTwin(i, d, match)
	}
	return badArgument("importMode is %q.", d.ImportMode)
}

func (s *hubService) bulkTwin(i *Identity, d bulkDevice, match azure.IfMatch) error {
	wanted := wantedTwin{Tags: d.Tags}
	if d.Properties != nil {
		wanted.Properties.Desired = d.Properties.Desired
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.writeTwin(wanted, match, false)
}
