// Package azure has the formats that Azure's IoT services share: what they look like, and no state.
//
//   - sas.go: shared access signatures (SAS), and keys derived from a group key
//   - certificates.go: certificate authorities, chains, thumbprints
//   - credentials.go: how a device proves who it is, with a key or a certificate
//   - errors.go: refusals, with a status, a code and a sentence
//   - json.go: JSON texts, and what is wrong with one in words without Go types
//   - ids.go: GUIDs, etags, keys, times, domain names
//   - twin_document.go: parts of twins: what they may hold, how a patch is merged, $metadata
//   - user_name.go: the user name of a device that connects to a hub
//   - match.go, seconds.go: versions that a request means, and numbers of seconds
//   - text.go: percent-encoding and the queries of topics
//
// Nothing here is guarded by a lock, because nothing here changes.
package azure
