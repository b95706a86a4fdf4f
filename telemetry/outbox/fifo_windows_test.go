package outbox

import "errors"

func mkfifo(string) error { return errors.ErrUnsupported }
