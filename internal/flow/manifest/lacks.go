package manifest

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/hubhop-iot/hubhop/internal/strict"
)

// Machine is what [Lacks] cannot see for itself.
type Machine struct {
	// Identity says that tokens of managed identities can be had.
	Identity bool
	// AnyMode says that files which others can read are no fault, as on systems without such modes.
	AnyMode bool
}

// SecretPath is the directory of a secret; dir is the one of the manifests.
func SecretPath(dir, name string) string { return filepath.Join(dir, "secrets", name) }

// ConfigMapPath is the directory of a config map.
func ConfigMapPath(dir, name string) string { return filepath.Join(dir, "configmaps", name) }

// VolumePath is the directory of a volume.
func VolumePath(dir, name string) string { return filepath.Join(dir, "volumes", name) }

// ServiceAccountTokenPath is the file with the token of the service account.
func ServiceAccountTokenPath(dir string) string {
	return filepath.Join(dir, "secrets", "serviceaccount", "token")
}

// SchemaPath is the file with a schema: schemas/<namespace>/<name>/<version>.json, where the
// namespace is left out if the reference has none.
func SchemaPath(dir string, ref SchemaRef) string {
	return filepath.Join(dir, "schemas", ref.Namespace, ref.Name, ref.Version+".json")
}

// ArtifactPaths are the files that may hold an artifact of a registry dir:, the best first.
// registry is its directory, name and version are those of the artifact; the version may be empty.
func ArtifactPaths(registry, name, version string) (paths []string) {
	base := name[strings.LastIndexByte(name, '/')+1:]
	var names []string
	for _, ext := range []string{".yaml", ".yml", ".wasm"} {
		if version != "" {
			names = append(names, base+"-"+version+ext)
		}
	}
	names = append(names, base+".yaml", base+".yml", base+".wasm")
	for _, n := range names {
		for _, sub := range []string{"", "graphs", "modules"} {
			paths = append(paths, filepath.Join(registry, sub, n))
		}
	}
	return paths
}

// Lacks says what the manifests need of this machine and do not find: secrets, config maps,
// volumes, tokens, schemas, artifacts of local registries. It also says which secrets others can
// read. All are warnings at the value that needs the thing: the flows start, and wait for it. dir
// is the directory of the manifests.
func Lacks(s *Set, dir string, m Machine) []Fault {
	l := &lacks{dir: dir, machine: m}
	for _, e := range s.Endpoints {
		switch {
		case e.Mqtt != nil:
			l.tls(&e.Mqtt.TLS)
			l.authentication(&e.Mqtt.Authentication)
		case e.Kafka != nil:
			l.tls(&e.Kafka.TLS)
			l.authentication(&e.Kafka.Authentication)
		case e.OpenTelemetry != nil:
			l.tls(&e.OpenTelemetry.TLS)
			l.authentication(&e.OpenTelemetry.Authentication)
		case e.LocalStorage != nil && kubeName().MatchString(e.LocalStorage.Claim):
			path := VolumePath(dir, e.LocalStorage.Claim)
			if !isDir(path) {
				l.Warn(e.LocalStorage.At("persistentVolumeClaimRef"), "lacks-volume", "the directory %s is not there; make it, where the files are to be", path)
			}
		}
	}
	for _, r := range s.Registries {
		if r.Authentication != nil {
			l.authentication(r.Authentication)
		}
		if local, _, ok := r.Local(); ok && !isDir(filepath.Join(dir, local)) {
			l.Warn(r.At("host"), "lacks-registry", "the directory %s is not there; make it, and put the artifacts in it", filepath.Join(dir, local))
		}
	}
	for _, g := range s.Graphs {
		l.graph(g)
	}
	return Sort(l.All)
}

type lacks struct {
	faults
	dir     string
	machine Machine
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

func (l *lacks) tls(t *TLS) {
	name := t.CAsConfigMap
	if name == "" || !t.Enabled() || !kubeName().MatchString(name) {
		return
	}
	path := ConfigMapPath(l.dir, name)
	if len(visible(path)) == 0 {
		l.Warn(t.At("trustedCaCertificateConfigMapRef"), "lacks-config-map", "the directory %s has no file; put the trusted certificates in it, as PEM", path)
	}
}

// visible lists the plain files of a directory that are not hidden, so that the parts of a mounted
// volume of Kubernetes do not count twice.
func visible(path string) (names []string) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil
	}
	for _, e := range entries {
		if info, err := os.Stat(filepath.Join(path, e.Name())); err == nil && info.Mode().IsRegular() && !strings.HasPrefix(e.Name(), ".") {
			names = append(names, e.Name())
		}
	}
	return names
}

// authentication checks the secret of a method. A client certificate has two spellings of its keys.
func (l *lacks) authentication(a *Authentication) {
	switch a.Method {
	case X509Certificate:
		if a.X509 != nil {
			l.secret(a.X509.Where, a.X509.SecretRef, []string{"client_cert.pem", "client_key.pem"}, []string{"tls.crt", "tls.key"})
		}
	case Sasl:
		if a.Sasl != nil {
			l.secret(a.Sasl.Where, a.Sasl.SecretRef, []string{"username", "password"}, nil)
		}
	case UsernamePassword:
		if a.UsernamePassword != nil {
			l.secret(a.UsernamePassword.Where, a.UsernamePassword.SecretRef, []string{"username", "password"}, nil)
		}
	case ArtifactPullSecret:
		if a.PullSecret != nil {
			l.secret(a.PullSecret.Where, a.PullSecret.SecretRef, []string{".dockerconfigjson"}, nil)
		}
	case ServiceAccountToken:
		path := ServiceAccountTokenPath(l.dir)
		if info, err := os.Stat(path); err != nil || !info.Mode().IsRegular() {
			l.Warn(a.At("method"), "lacks-token", "the file %s is not there; have the token written to it", path)
		} else {
			l.private(a.At("method"), path, info)
		}
	case SystemAssigned, UserAssigned:
		if !l.machine.Identity {
			l.Warn(a.At("method"), "lacks-identity", "the method %s needs a token of a managed identity, and nothing on this machine gives one; run hubhop on a machine with an identity endpoint, or name a token program", a.Method)
		}
	case Anonymous, AccessToken:
	}
}

// secret checks that a secret has its keys.
func (l *lacks) secret(w Where, name string, keys, orElse []string) {
	if name == "" || !kubeName().MatchString(name) {
		return
	}
	at, path := w.At("secretRef"), SecretPath(l.dir, name)
	if !isDir(path) {
		l.Warn(at, "lacks-secret", "the directory %s is not there; make it, with a file for each of %s", path, listedAnd(keys))
		return
	}
	has := func(key string) bool {
		info, err := os.Stat(filepath.Join(path, key))
		return err == nil && info.Mode().IsRegular()
	}
	if orElse != nil && slices.ContainsFunc(orElse, has) && !slices.ContainsFunc(keys, has) {
		keys = orElse
	}
	for _, key := range keys {
		file := filepath.Join(path, key)
		info, err := os.Stat(file)
		if err != nil || !info.Mode().IsRegular() {
			there := visible(path)
			found := "it is empty"
			if len(there) > 0 {
				found = "it has " + strict.Some(there)
			}
			l.Warn(at, "lacks-secret-key", "the secret %s has no file %s, %s; write the value to %s", name, key, found, file)
			continue
		}
		l.private(at, file, info)
	}
}

// private warns of a secret that others can read.
func (l *lacks) private(at Pos, file string, info os.FileInfo) {
	if runtime.GOOS != "windows" && !l.machine.AnyMode && info.Mode().Perm()&0o044 != 0 {
		l.Warn(at, "secret-readable", "others can read %s (mode %04o); run chmod 600 on it", file, info.Mode().Perm())
	}
}

// graph checks the schemas and local artifacts of a graph.
func (l *lacks) graph(g *Graph) {
	for i := range g.Operators {
		o := &g.Operators[i]
		local, layout, ok := o.Registry.Local()
		if o.Native != "" || !ok || layout || !isDir(filepath.Join(l.dir, local)) {
			continue
		}
		if !slices.ContainsFunc(ArtifactPaths(filepath.Join(l.dir, local), o.Artifact, o.Version), func(path string) bool {
			info, err := os.Stat(path)
			return err == nil && info.Mode().IsRegular()
		}) {
			l.Warn(o.At("artifact"), "lacks-artifact", "the artifact %s is not in %s; put its graph definition there, in graphs/ or in modules/", strict.Quoted(o.Artifact+":"+o.Version), filepath.Join(l.dir, local))
		}
	}
	for i := range g.Connections {
		c := &g.Connections[i]
		ref, ok := ParseSchemaRef(c.Schema)
		if !ok {
			continue
		}
		if info, err := os.Stat(SchemaPath(l.dir, ref)); err != nil || !info.Mode().IsRegular() {
			l.Warn(c.Pos(), "lacks-schema", "the schema %s is not there; write it to %s", c.Schema, SchemaPath(l.dir, ref))
		}
	}
}

// listedAnd joins words: "A, B and C".
func listedAnd(words []string) string {
	if len(words) < 2 {
		return strings.Join(words, "")
	}
	return strings.Join(words[:len(words)-1], ", ") + " and " + words[len(words)-1]
}
