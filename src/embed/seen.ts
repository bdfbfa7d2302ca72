/**
 * Whether a person can see what they press. A page around may lay this frame, transparent, over a button of its own, or
 * have its own picture cover all but our button; what is pressed then was not meant. Browsers with IntersectionObserver v2
 * (https://w3c.github.io/IntersectionObserver/v2/) know whether an element is drawn as it is, uncovered and unbent, up to
 * the top of the page, and let no press through to a frame that has just been moved under the pointer. Others tell nothing
 * of it, and there nothing is held back.
 */

/** It must have been seen for so long. */
const seenMs = 500;
/** What is on the screen and cannot be seen for so long is covered. */
const coveredMs = 1500;

/** hidden: not on the screen, or only just; covered: on the screen, and hidden by the page around. */
export type Seen = 'hidden' | 'covered' | 'seen';

/** TypeScript's library does not have version 2. */
interface VisibilityInit extends IntersectionObserverInit {
  trackVisibility: true;
  /** Milliseconds between two looks; 100 at least. */
  delay: number;
}

/** Tells, from now on, whether `element` can be seen. Answers how to end it. */
export function watchSeen(element: Element, tell: (seen: Seen) => void): () => void {
  const framed = window.top !== window;
  if (!framed || !('isVisible' in IntersectionObserverEntry.prototype)) {
    tell('seen');
    return () => {};
  }
  tell('hidden');
  let timer = 0;
  const how: VisibilityInit = { threshold: [0, 1], trackVisibility: true, delay: 100 };
  const observer = new IntersectionObserver((entries) => {
    const { isVisible, isIntersecting } = entries.at(-1) as IntersectionObserverEntry & {
      isVisible: boolean;
    };
    clearTimeout(timer);
    tell('hidden');
    if (isVisible) timer = window.setTimeout(() => tell('seen'), seenMs);
    else if (isIntersecting) timer = window.setTimeout(() => tell('covered'), coveredMs);
  }, how);
  observer.observe(element);
  return () => {
    clearTimeout(timer);
    observer.disconnect();
  };
}
