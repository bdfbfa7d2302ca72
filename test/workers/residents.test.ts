import { beforeEach, expect, test } from 'vitest';
import { Residents } from '../../workers/residents.ts';
import { FakeClock } from '../fault/clock.ts';

let clock: FakeClock;
let residents: Residents;
/** Loads under way or loaded, and how each is ended. */
let loads: { key: string; end(): void; fail(): void }[];
beforeEach(() => {
  clock = new FakeClock();
  residents = new Residents(clock, 3);
  loads = [];
});

const load = (key: string) => () =>
  new Promise<ArrayBuffer>((resolve, reject) => {
    loads.push({
      key,
      end: () => resolve(new ArrayBuffer(8)),
      fail: () => reject(new RangeError(key)),
    });
  });
const use = (key: string) => residents.with(key, load(key), (bytes) => bytes.byteLength);
const begun = () => loads.map(({ key }) => key);
const turns = () => new Promise((resolve) => setTimeout(resolve, 0));

test('a fourth span waits until one of three has no reader', async () => {
  const [a, b, c, d] = [use('a'), use('b'), use('c'), use('d')];
  await turns();
  expect(begun()).toEqual(['a', 'b', 'c']);
  loads[1]!.end();
  expect(await b).toBe(8);
  await turns();
  expect(begun()).toEqual(['a', 'b', 'c', 'd']);
  for (const at of [0, 2, 3]) loads[at]!.end();
  expect(await Promise.all([a, c, d])).toEqual([8, 8, 8]);
});

test('a span in memory is not loaded again; the one unused for longest goes first', async () => {
  for (const key of ['a', 'b', 'a', 'd']) {
    const used = use(key);
    loads.at(-1)!.end();
    await used;
  }
  expect(begun()).toEqual(['a', 'b', 'd']);
  const fourth = use('c');
  loads.at(-1)!.end();
  await fourth;
  expect(await use('a')).toBe(8);
  expect(begun()).toEqual(['a', 'b', 'd', 'c']);
  void use('b');
  expect(begun()).toEqual(['a', 'b', 'd', 'c', 'b']);
});

test('reading ahead takes no place from a reader, and one load serves both', async () => {
  const a = use('a');
  residents.ahead('b', load('b'));
  residents.ahead('b', load('b'));
  expect(begun()).toEqual(['a', 'b']);
  const [b, c] = [use('b'), use('c')];
  residents.ahead('d', load('d'));
  expect(begun()).toEqual(['a', 'b', 'c']);
  loads.forEach(({ end }) => end());
  expect(await Promise.all([a, b, c])).toEqual([8, 8, 8]);
});

test('a load that fails is told to whoever waits, and tried again by the next', async () => {
  residents.ahead('a', load('a'));
  const [one, two] = [use('a'), use('a')];
  loads[0]!.fail();
  await expect(one).rejects.toThrow('a');
  await expect(two).rejects.toThrow('a');
  residents.ahead('a', load('a'));
  loads[1]!.fail();
  await turns();
  const third = use('a');
  loads[2]!.end();
  expect(await third).toBe(8);
});

test('memory is given back by name, and after a while of rest', async () => {
  for (const key of ['m 1', 'n 1']) {
    const used = use(key);
    loads.at(-1)!.end();
    await used;
  }
  residents.forget('m ');
  const again = use('m 1');
  loads.at(-1)!.end();
  await again;
  expect(begun()).toEqual(['m 1', 'n 1', 'm 1']);
  expect(await use('n 1')).toBe(8);
  clock.advance(60_000);
  await turns();
  void use('n 1');
  expect(begun()).toEqual(['m 1', 'n 1', 'm 1', 'n 1']);
});
