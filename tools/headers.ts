/**
 * What a server sends with each file of the built page: the one source for the preview server, the end-to-end tests, the
 * files that hosts read (`_headers`, `vercel.json`), and the policy inside each HTML file for hosts that send no headers.
 *
 * Nothing here needs cross-origin isolation. A person may name any host of models, so the page may connect anywhere by
 * https and to this computer; that it contacts nobody unasked is for test/e2e/csp.test.ts to show.
 */

type Policy = Record<string, string[]>;
export type Headers = Record<string, string>;

const anywhere = ["'self'", 'https:', 'http://localhost:*', 'http://127.0.0.1:*'];

/** The playground. */
const page: Policy = {
  'default-src': ["'none'"],
  'script-src': ["'self'"],
  'style-src': ["'self'"],
  'img-src': ["'self'", 'data:'],
  'manifest-src': ["'self'"],
  'worker-src': ["'self'"],
  'frame-src': ["'self'"],
  'connect-src': anywhere,
  'base-uri': ["'none'"],
  'form-action': ["'none'"],
  'frame-ancestors': ["'none'"],
  'require-trusted-types-for': ["'script'"],
  'trusted-types': ['svelte-trusted-html', 'dompurify', 'palimpsest'],
};

/** The widget: framed by anyone; in a frame without an origin its workers come from data: addresses. */
const embed: Policy = {
  ...page,
  'worker-src': ["'self'", 'data:'],
  'connect-src': ["'self'", 'https:'],
  'frame-ancestors': ['*'],
  'trusted-types': [...page['trusted-types']!, 'palimpsest-import'],
};

/** Articles that hold widgets. */
const examples: Policy = {
  ...page,
  'worker-src': ["'none'"],
  'connect-src': ["'none'"],
  'trusted-types': ["'none'"],
};

/**
 * llama.cpp in a frame of the page, or of the widget and so within anyone's: WebAssembly, in a worker from a blob: address,
 * and no connection but to its own code. It speaks to a page of its own origin alone (src/cpu/frame.ts).
 */
const cpu: Policy = {
  'default-src': ["'none'"],
  'script-src': ["'self'", "'wasm-unsafe-eval'"],
  'worker-src': ['blob:'],
  'connect-src': ["'self'"],
  'img-src': ["'self'"],
  'base-uri': ["'none'"],
  'form-action': ["'none'"],
  'frame-ancestors': ['*'],
  'require-trusted-types-for': ["'script'"],
  'trusted-types': ['default'],
};

/** A worker's policy is that of its own script. */
const workers: Policy = {
  'default-src': ["'none'"],
  'script-src': ["'self'"],
  'connect-src': anywhere,
};

const everywhere: Headers = {
  // Frames without an origin, and pages that take embed.js, read scripts and models from elsewhere.
  'Access-Control-Allow-Origin': '*',
  'Cross-Origin-Resource-Policy': 'cross-origin',
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
  'Permissions-Policy': 'camera=(), geolocation=(), microphone=()',
};

/** Names under which hosts serve each HTML file: some take the ending off. `*` stands for anything. */
const policies: { paths: string[]; policy: Policy }[] = [
  { paths: ['/', '/index.html'], policy: page },
  { paths: ['/embed', '/embed.html'], policy: embed },
  { paths: ['/cpu', '/cpu.html'], policy: cpu },
  { paths: ['/examples/*'], policy: examples },
  { paths: ['/assets/*'], policy: workers },
];

const unchanging = {
  paths: ['/assets/*'],
  headers: { 'Cache-Control': 'max-age=31536000, immutable' },
};

/** A rule: what to send with the files at these paths. Rules are disjoint but for the first, which is for all files. */
export interface HeaderRule {
  paths: string[];
  headers: Headers;
}

export const headerRules: HeaderRule[] = [
  { paths: ['/*'], headers: everywhere },
  ...policies.map(({ paths, policy }) => ({
    paths,
    headers: {
      'Content-Security-Policy': policyText(policy),
      ...(paths.join() === unchanging.paths.join() ? unchanging.headers : {}),
    },
  })),
];

/** What to send with the file at `path`, which begins at the page's own folder with "/". */
export function headersOf(path: string): Headers {
  const matches = (pattern: string) =>
    pattern.endsWith('*') ? path.startsWith(pattern.slice(0, -1)) : path === pattern;
  return Object.assign(
    {},
    ...headerRules.filter(({ paths }) => paths.some(matches)).map(({ headers }) => headers),
  ) as Headers;
}

function policyText(policy: Policy): string {
  return Object.entries(policy)
    .map(([directive, sources]) => `${directive} ${sources.join(' ')}`)
    .join('; ');
}

/**
 * The policy to stand inside an HTML file, for hosts without headers: all but what browsers heed in headers alone. While
 * developing, vite puts styles into the page and Svelte's messages with them.
 */
export function policyInside(path: string, developing: boolean): string | null {
  const found = policies.find(({ paths }) =>
    paths.some((pattern) =>
      pattern.endsWith('*') ? path.startsWith(pattern.slice(0, -1)) : pattern === path,
    ),
  );
  if (!found) return null;
  const { 'frame-ancestors': _, ...inside } = found.policy;
  if (!developing) return policyText(inside);
  const { 'require-trusted-types-for': _for, 'trusted-types': _types, ...loose } = inside;
  return policyText({
    ...loose,
    'style-src': ["'self'", "'unsafe-inline'"],
    'connect-src': [...new Set([...loose['connect-src']!.filter((s) => s !== "'none'"), "'self'"])],
  });
}

/** The rules as Netlify and Cloudflare Pages read them. */
export function headersFile(): string {
  return headerRules
    .flatMap(({ paths, headers }) =>
      paths.map((path) =>
        [path, ...Object.entries(headers).map(([name, value]) => `  ${name}: ${value}`), ''].join(
          '\n',
        ),
      ),
    )
    .join('\n');
}

/** The rules as Vercel reads them. */
export function vercelFile(): string {
  const rules = headerRules.flatMap(({ paths, headers }) =>
    paths.map((path) => ({
      source: path.replace('*', '(.*)'),
      headers: Object.entries(headers).map(([key, value]) => ({ key, value })),
    })),
  );
  return `${JSON.stringify({ headers: rules }, null, 2)}\n`;
}
