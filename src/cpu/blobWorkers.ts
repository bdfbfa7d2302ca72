/** wllama starts its worker by a string, which a document under Trusted Types takes only by leave of a default policy. */

interface Rules {
  createScriptURL: (address: string) => string;
}

/**
 * Let a worker be started by a string if that is a blob: address of this document's own making. For a document that holds
 * nothing else: the default policy is asked for every such string. Browsers without Trusted Types need no leave.
 */
export function allowBlobWorkers(): void {
  const { trustedTypes } = globalThis as {
    trustedTypes?: { createPolicy(name: string, rules: Rules): unknown };
  };
  trustedTypes?.createPolicy('default', {
    createScriptURL(address) {
      if (address.startsWith(`blob:${location.origin}/`)) return address;
      throw new TypeError(`${address} is no script that was made here.`);
    },
  });
}
