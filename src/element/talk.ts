/** The page's end of the port: calls that become promises, tokens that become a stream, events. No DOM. */
import { PalimpsestError } from '../../workers/protocol.ts';
import {
  limits,
  meter,
  readAnswer,
  readReply,
  readRequest,
  type Answers,
  type Call,
  type Events,
  type Request,
  type WidgetToken,
} from '../embed/protocol.ts';
import type { Port } from '../embed/serve.ts';

/** What a call asks for: a request without its number and name. */
export type Asked<C extends Call> = Omit<Extract<Request, { call: C }>, 'id' | 'call'>;

export interface Talk {
  /** Fails as the widget says, or Refused when the line is cut. */
  call<C extends Call>(
    call: C,
    asked: Asked<C>,
    onToken?: (token: WidgetToken) => void,
  ): Promise<Answers[C]>;
  cut(reason: string): void;
}

/**
 * Requests go out one each `paceMs`, or so many at once after a pause: well below what the frame bears, since they reach it
 * all together where it had no time for them.
 */
const paceMs = 100;
const atOnce = 20;

interface Waiting {
  call: Call;
  resolve: (value: never) => void;
  reject: (reason: Error) => void;
  onToken?: (token: WidgetToken) => void;
}

/** Talk through `port`. `hear` gets events; `onCut` the reason when the frame misbehaved. */
export function talk(
  port: Port,
  now: () => number,
  hear: <E extends keyof Events>(name: E, value: Events[E]) => void,
  onCut: (reason: string) => void,
): Talk {
  const waiting = new Map<number, Waiting>();
  const inTime = meter(limits.repliesPerSec, limits.replyBurst, now);
  const queue: { request: Request; answer: Promise<unknown> }[] = [];
  /** When the last request would have gone, had each of them kept the pace. */
  let dueMs = 0;
  let timer: ReturnType<typeof setTimeout> | undefined;
  let lastId = 0;
  let reason = '';

  function send() {
    clearTimeout(timer);
    while (queue.length > 0 && dueMs - now() < atOnce * paceMs) {
      dueMs = Math.max(dueMs, now()) + paceMs;
      port.postMessage(queue.shift()!.request);
    }
    if (queue.length > 0) timer = setTimeout(send, paceMs);
  }

  function cut(why: string) {
    if (reason) return;
    reason = why;
    clearTimeout(timer);
    queue.length = 0;
    port.onmessage = null;
    port.close();
    for (const { reject } of waiting.values()) reject(new PalimpsestError('Refused', why));
    waiting.clear();
  }

  // Who is not heard any more is not told so, and a frame that is gone tells nothing: browsers do.
  port.addEventListener('close', () =>
    cut('The widget does not hear this page any more. Put another one in its place.'),
  );
  port.onmessage = ({ data: message }: MessageEvent<unknown>) => {
    try {
      if (!inTime()) throw new PalimpsestError('Refused', 'The frame floods the page.');
      const reply = readReply(message, 'The reply');
      if (reply.reply === 'event') {
        hear(reply.name, reply.value as never);
        return;
      }
      const asked = waiting.get(reply.id);
      if (reply.reply === 'token') {
        asked?.onToken?.(reply.token);
        return;
      }
      // A sound frame answers every request once.
      if (!asked) throw new PalimpsestError('Refused', 'The frame answers what nobody asked.');
      waiting.delete(reply.id);
      if (reply.reply === 'failed') {
        asked.reject(Object.assign(new Error(reply.message), { name: reply.name }));
        return;
      }
      try {
        asked.resolve(readAnswer(asked.call, reply.value) as never);
      } catch (thrown) {
        asked.reject(thrown as Error);
        throw thrown;
      }
    } catch (thrown) {
      const why = (thrown as Error).message;
      cut(why);
      onCut(why);
    }
  };

  return {
    cut,
    call(call, asked, onToken) {
      if (reason) return Promise.reject(new PalimpsestError('Refused', reason));
      const id = ++lastId;
      let request: Request;
      try {
        // Refused here, it counts as no nonsense there.
        request = readRequest({ ...asked, id, call }, 'The request');
      } catch (thrown) {
        return Promise.reject(thrown as Error);
      }
      // Of several looks that wait only the last counts.
      const before = queue.find((queued) => queued.request.call === call);
      if (before?.request.call === 'look' && request.call === 'look') {
        Object.assign(before.request.look, request.look);
        return before.answer as never;
      }
      if (before?.request.call === 'theme' && request.call === 'theme') {
        before.request.theme = request.theme;
        return before.answer as never;
      }
      const answer = new Promise<never>((resolve, reject) => {
        waiting.set(id, { call, resolve, reject, onToken });
      });
      queue.push({ request, answer });
      send();
      return answer;
    },
  };
}
