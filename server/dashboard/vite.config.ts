import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { defineConfig, type Plugin } from 'vite';

// What the built assets depend on. tests/check_dist.cmake holds dist/manifest.sha256 against the tree.
const SOURCES = ['index.html', 'package-lock.json', 'package.json', 'tsconfig.json', 'vite.config.ts', 'src', 'dist'];

function filesOf(path: string): string[] {
  if (!statSync(path).isDirectory()) return [path];
  return readdirSync(path).flatMap((name) => filesOf(join(path, name)));
}

function manifest(): Plugin {
  return {
    name: 'manifest',
    closeBundle() {
      const lines = SOURCES.flatMap(filesOf)
        .filter((file) => file !== 'dist/manifest.sha256')
        .sort()
        .map((file) => `${createHash('sha256').update(readFileSync(file)).digest('hex')}  ${file}\n`);
      writeFileSync('dist/manifest.sha256', lines.join(''));
    },
  };
}

export default defineConfig({
  plugins: [manifest()],
  esbuild: { jsx: 'automatic', jsxImportSource: 'preact', legalComments: 'none' },
  build: {
    target: 'es2022',
    assetsInlineLimit: 0, // data: addresses would need a wider content security policy
    modulePreload: { polyfill: false },
    reportCompressedSize: false,
    sourcemap: false,
  },
  server: { proxy: { '/api': 'http://127.0.0.1:7490' } },
});
