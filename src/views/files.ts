/** Handing a file to the person: the browser's own downloads. */

/** Save `content` under `name`. Text takes `type` as its kind; a Blob has its own. */
export function saveFile(name: string, content: string | Blob, type = 'text/plain'): void {
  const link = document.createElement('a');
  link.href = URL.createObjectURL(
    typeof content === 'string' ? new Blob([content], { type }) : content,
  );
  link.download = name;
  link.click();
  // After the click has been taken up.
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}
