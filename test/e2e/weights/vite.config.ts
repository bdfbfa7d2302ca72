import { resolve } from 'node:path';
import { defineConfig } from 'vite';

export default defineConfig({
  base: './',
  worker: { format: 'es' },
  logLevel: 'warn',
  build: { outDir: resolve('.cache/weights-page'), emptyOutDir: true, target: 'esnext' },
});
