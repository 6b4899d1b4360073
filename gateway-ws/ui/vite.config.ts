// The build of the pages: one bundle graph, three HTML entries, names made from content only.
import { fileURLToPath } from 'node:url';
import { svelte } from '@sveltejs/vite-plugin-svelte';
import { defineConfig } from 'vite';

export default defineConfig({
  // The console is served at other paths than its root.
  base: './',
  plugins: [svelte()],
  resolve: { alias: { '@motience/client': fileURLToPath(new URL('../../clients/ts/src/index.ts', import.meta.url)) } },
  build: {
    target: 'es2022',
    cssTarget: ['chrome123', 'firefox120', 'safari17.5'],
    // The gateway's CSP is `default-src 'self'`: nothing may become a data: URI or an inline script.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    reportCompressedSize: true,
    rolldownOptions: {
      input: { producer: 'producer.html', consumer: 'consumer.html', console: 'console.html' },
      output: {
        entryFileNames: 'assets/[name]-[hash].js',
        chunkFileNames: 'assets/shared-[hash].js',
        assetFileNames: 'assets/[name]-[hash][extname]',
      },
    },
  },
});
