import react from '@vitejs/plugin-react';
import { defineConfig } from 'vitest/config';

// The same policy region-node sends, so that a preview shows what it would block.
const contentSecurityPolicy = [
  "default-src 'self'",
  "worker-src 'self' blob:",
  "style-src 'self' 'unsafe-inline'",
  'connect-src \'self\' http: https: ws: wss:',
].join('; ');

// `npm run dev` and `npm run preview` talk to a running region-node; tell which by REGION_NODE_URL.
const node = process.env['REGION_NODE_URL'] ?? 'http://127.0.0.1:18000';
const proxy = {
  '/v1': node,
  '/health': node,
  '/socket.io': { target: node, ws: true },
};

export default defineConfig({
  plugins: [react()],
  server: { proxy },
  preview: { proxy, headers: { 'Content-Security-Policy': contentSecurityPolicy } },
  build: {
    target: 'es2022',
    // A data: address would be refused by the content security policy.
    assetsInlineLimit: 0,
    // MapLibre alone is larger than the default limit; it is a chunk of its own, loaded with the first map.
    chunkSizeWarningLimit: 1200,
  },
  worker: { format: 'es' },
  test: { include: ['src/**/*.test.ts'], environment: 'node' },
});
