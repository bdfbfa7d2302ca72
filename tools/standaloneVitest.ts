/**
 * The part of `vitest` that kernel tests use, without its processes: it stands in for the package where tests are bundled
 * into one file for a machine that has nothing installed (tools/suite.ts).
 */
import {
  chai,
  type ExpectStatic,
  GLOBAL_EXPECT,
  JestAsymmetricMatchers,
  JestChaiExpect,
  JestExtend,
  type MatchersObject,
} from '@vitest/expect';
import * as runner from '@vitest/runner';

chai.use(JestExtend);
chai.use(JestChaiExpect);
chai.use(JestAsymmetricMatchers);

const chaiExpect = chai.expect as unknown as {
  extend(expect: unknown, matchers: MatchersObject): void;
};

/** `expect(value).toBe(...)` and the other matchers; `expect.extend` adds more. */
export const expect = Object.assign(
  (value: unknown, message?: string) => chai.expect(value, message),
  chai.expect,
  { extend: (matchers: MatchersObject) => chaiExpect.extend(expect, matchers) },
) as unknown as ExpectStatic;

Object.defineProperty(globalThis, GLOBAL_EXPECT, { value: expect });

export const { afterAll, afterEach, beforeAll, beforeEach, describe, it, test } = runner;
