// The line that an error of the job file names ("job.toml:7: …", "line 7", "job.toml, line 7").
export function lineOf(message: string): number | undefined {
  const found = /(?:\bline |\.toml:)(\d+)/i.exec(message);
  return found ? Number(found[1]) : undefined;
}
