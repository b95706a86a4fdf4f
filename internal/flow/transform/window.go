package transform

// window will be the operator window.
func (c *compiler) window(map[string]string, string) any {
	c.fault(Fault{Offset: -1, Text: "windows are not built yet"})
	return nil
}
