/** The page's end of the port: calls that become promises, tokens that become a stream, events. No DOM. */
import { PalimpsestError } from '../../workers/protocol.ts';
import {
  limits,
  meter,
  readAnswer,
  readReply,
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
  let lastId = 0;
  let reason = '';

  function cut(why: string) {
    if (reason) return;
    reason = why;
    port.onmessage = null;
    port.close();
    for (const { reject } of waiting.values()) reject(new PalimpsestError('Refused', why));
    waiting.clear();
  }

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
    call: (call, asked, onToken) =>
      new Promise((resolve, reject) => {
        if (reason) throw new PalimpsestError('Refused', reason);
        const id = ++lastId;
        waiting.set(id, { call, resolve: resolve as never, reject, onToken });
        port.postMessage({ ...asked, id, call });
      }),
  };
}
