// Holds Kubernetes manifests against the API's own schemas (npm package kubernetes-models, made from its OpenAPI file):
// wrong types, missing fields, and fields that the API does not know, which its schemas alone would let pass.
//   npm install --no-save kubernetes-models@5 yaml@2 && node tests/deploy/check_manifests.mjs deploy/kubernetes/*.yaml
import {createRequire} from 'node:module';
import {readFileSync} from 'node:fs';
import {pathToFileURL} from 'node:url';
const require = createRequire(process.cwd() + '/');
const {parseAllDocuments} = require('yaml');

const groups = {v1: 'CoreV1', 'apps/v1': 'AppsV1', 'policy/v1': 'PolicyV1', 'networking.k8s.io/v1': 'NetworkingV1'};

// The validators read every property that their schema has: what was never read is unknown.
function watched(value, path, unread) {
  if (value === null || typeof value !== 'object') return value;
  const children = new Map();
  for (const key of Object.keys(value)) {
    unread.add(`${path}/${key}`);
    children.set(key, watched(value[key], `${path}/${key}`, unread));
  }
  return new Proxy(value, {
    get(target, key) {
      unread.delete(`${path}/${String(key)}`);
      return children.has(key) ? children.get(key) : target[key];
    },
  });
}

let passed = 0, failed = 0;
for (const file of process.argv.slice(2)) {
  for (const document of parseAllDocuments(readFileSync(file, 'utf8'))) {
    const object = document.toJS();
    if (object.apiVersion.startsWith('kustomize.config.k8s.io')) continue;
    const problems = [];
    if (!(object.apiVersion in groups)) {
      problems.push(`apiVersion ${object.apiVersion} is not known to this check`);
    } else {
      // An ES module, which require() takes from Node 22 on only.
      const schema = `node_modules/kubernetes-models/_schemas/IoK8sApi${groups[object.apiVersion]}${object.kind}.js`;
      const {validate} = await import(pathToFileURL(schema));
      const unread = new Set();
      if (!validate(watched(object, '', unread)))
        for (const error of validate.errors) problems.push(`${error.instancePath}: ${error.message ?? JSON.stringify(error.params ?? error)}`);
      else
        for (const path of unread) problems.push(`${path}: the API has no such field`);
    }
    for (const problem of problems) console.error(`${file}: ${object.kind} ${object.metadata?.name}: ${problem}`);
    problems.length ? ++failed : ++passed;
  }
}
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
