package iothub

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/hubhop-iot/hubhop/internal/sim/azure"
)

// between returns a time if it is within bounds, and the time otherwise if it is left out.
func between(f azure.FlexibleSeconds, name string, low, high, otherwise float64) (time.Duration, error) {
	if f.Value == nil {
		return azure.Seconds(otherwise), nil
	}
	if n := *f.Value; !(n >= low && n <= high) {
		return 0, badArgument("%s is %v, it must be %v to %v.", name, n, low, high)
	}
	return azure.Seconds(*f.Value), nil
}

func (s *hubService) invokeMethod(_ http.ResponseWriter, r *http.Request) (any, error) {
	var call struct {
		MethodName      string                `json:"methodName"`
		Payload         json.RawMessage       `json:"payload"`
		ResponseTimeout azure.FlexibleSeconds `json:"responseTimeoutInSeconds"`
		ConnectTimeout  azure.FlexibleSeconds `json:"connectTimeoutInSeconds"`
	}
	if err := decodeBody(r, &call); err != nil {
		return nil, err
	}
	response, err := between(call.ResponseTimeout, "responseTimeoutInSeconds", 5, 300, MethodTimeout.Seconds())
	if err != nil {
		return nil, err
	}
	connect, err := between(call.ConnectTimeout, "connectTimeoutInSeconds", 0, 300, 0)
	if err != nil {
		return nil, err
	}
	switch {
	case call.MethodName == "" || len(call.MethodName) > methodNameLimit:
		return nil, badArgument("methodName has %d characters, it must have 1 to %d.", len(call.MethodName), methodNameLimit)
	case len(call.Payload) > MethodMaxBytes:
		return nil, azure.Errorf(http.StatusRequestEntityTooLarge, "MessageTooLarge", "The payload has %d bytes, the limit is %d.", len(call.Payload), MethodMaxBytes)
	}
	i, err := s.find(r)
	if err != nil {
		return nil, err
	}
	if connect > 0 {
		ctx, cancel := context.WithTimeout(r.Context(), max(connect-callerPatience, 0))
		i.Await(ctx)
		cancel()
	}
	ctx, cancel := context.WithTimeout(r.Context(), response-callerPatience)
	defer cancel()
	result, err := i.Invoke(ctx, call.MethodName, call.Payload)
	return result, s.methodError(err)
}

// methodError gives a failed call the form of the gateway that makes it: a document within a
// document.
func (s *hubService) methodError(err error) error {
	e, ok := errors.AsType[*azure.Error](err)
	if !ok {
		return err
	}
	code, text := 0, ""
	switch e.Code {
	case "DeviceNotOnline":
		code, text = 404103, "The operation failed because the requested device isn't online or hasn't registered the direct method callback. To learn more, see https://aka.ms/iothub404103"
	case "GatewayTimeout":
		code, text = 504101, "Timed out waiting for the response from device."
	default:
		return err
	}
	return &azure.Error{Status: e.Status, Code: e.Code, Message: e.Message, Document: azure.EncodeJSON(map[string]any{
		"errorCode": code, "trackingId": s.trackingID(), "message": text,
		"info": map[string]string{"timeout": "00:00:00"}, "timestampUtc": azure.UTC7(s.now()),
	})}
}
