/**
 * The page runs under Trusted Types: where a browser takes text as a script's address, it takes only what a policy made.
 * These are the page's own policies for addresses, and they make none but those of the page's own scripts.
 */

/** TypeScript's library does not have it. */
interface TrustedTypes {
  createPolicy(name: string, rules: Rules): Rules;
}
interface Rules {
  createScriptURL: (address: string) => string;
}

const { trustedTypes } = globalThis as { trustedTypes?: TrustedTypes };

/** What the policy makes passes for a string: browsers' types know no other address. */
function policy(name: string, rules: Rules): Rules {
  return trustedTypes?.createPolicy(name, rules) ?? rules;
}

function own(address: string): string {
  const script = new URL(address, document.baseURI);
  const page = new URL(document.baseURI);
  if (script.origin !== page.origin) {
    throw new TypeError(`${script.href} is no script of ${page.origin}.`);
  }
  return script.href;
}

const ownScripts = policy('palimpsest', { createScriptURL: own });
/** Made where it is needed: only documents that may lack an origin allow this policy (tools/headers.ts). */
let importedScripts: Rules | null = null;
const importing = (): Rules =>
  (importedScripts ??= policy('palimpsest-import', {
    createScriptURL: (address) =>
      `data:text/javascript,${encodeURIComponent(`import ${JSON.stringify(own(address))};`)}`,
  }));

/** The address of a script of this page, for a worker or a service worker. Fails: TypeError for any other. */
export function ownScript(address: string): string {
  return ownScripts.createScriptURL(address);
}

/**
 * Start a module worker from a script of this page. A document without an origin of its own (a frame sandboxed without
 * allow-same-origin) may start none by its address, but one from a data: address, which imports the script; the server
 * must then let any origin read it.
 */
export function startWorker(address: string): Worker {
  const scripts = origin === 'null' ? importing() : ownScripts;
  return new Worker(scripts.createScriptURL(address), { type: 'module' });
}
