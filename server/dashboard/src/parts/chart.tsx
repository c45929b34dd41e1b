// A line chart on uPlot. It is a picture for those who see it; the table beside it holds the same figures.
import { useEffect, useRef } from 'preact/hooks';
import uPlot from 'uplot';
import { useCell } from '../cell';
import { isDark } from '../theme';

export interface Line {
  label: string;
  color: `--${string}`; // of the style sheet
  width?: number;
  dash?: number[];
  fill?: boolean;
  points?: boolean;
}

interface ChartProps {
  label: string; // what a screen reader says of the picture
  xLabel: string;
  lines: Line[];
  data: [number[], ...(number | null)[][]];
  top: number; // of the y axis, which begins at 0
  yText: (value: number) => string;
  // What the line under the chart says of the point under the pointer (or the last one).
  describe: (index: number) => string;
  boundaries?: { x: number; text: string }[]; // where a new job begins
}

// Resolves what the style sheet says; a canvas does not read custom properties.
function colorOf(element: HTMLElement, name: string): string {
  const probe = document.createElement('span');
  probe.style.color = `var(${name})`;
  element.append(probe);
  const color = getComputedStyle(probe).color;
  probe.remove();
  return color;
}

const HEIGHT = 260;
const FONT = '12px system-ui, sans-serif';

export function Chart(props: ChartProps) {
  const frame = useRef<HTMLDivElement>(null);
  const readout = useRef<HTMLParagraphElement>(null);
  const plot = useRef<uPlot | undefined>(undefined);
  const latest = useRef(props);
  latest.current = props;
  const dark = useCell(isDark);

  const tell = (index: number | null | undefined) => {
    const current = latest.current;
    const at = index ?? current.data[0].length - 1;
    if (readout.current) readout.current.textContent = at < 0 ? '' : current.describe(at);
  };

  // A new chart only where the lines or the colours change; new figures are put into the one that is there.
  const shape = JSON.stringify([props.lines, dark]);
  useEffect(() => {
    const element = frame.current!;
    const ink = colorOf(element, '--ink-soft');
    const rule = colorOf(element, '--rule');
    const axis = { stroke: ink, font: FONT, ticks: { stroke: rule, size: 5 }, grid: { stroke: rule, width: 1 } };
    const chart = new uPlot(
      {
        width: element.clientWidth || 600,
        height: HEIGHT,
        legend: { show: false },
        cursor: { drag: { x: false, y: false }, points: { size: 7 } },
        scales: { x: { time: false, range: (_u, low, high) => (low === high ? [low - 1, high + 1] : [low, high]) },
                  y: { range: () => [0, latest.current.top] } },
        axes: [
          { ...axis, grid: { show: false }, space: 48, size: 30,
            values: (_u, ticks) => ticks.map((tick) => (Number.isInteger(tick) ? String(tick) : '')) },
          { ...axis, size: 52, values: (_u, ticks) => ticks.map((tick) => latest.current.yText(tick)) },
        ],
        series: [
          {},
          ...props.lines.map((line): uPlot.Series => ({
            label: line.label,
            stroke: colorOf(element, line.color),
            width: line.width ?? 2,
            ...(line.dash ? { dash: line.dash } : {}),
            ...(line.fill ? { fill: colorOf(element, '--spent-tint') } : {}),
            points: { show: line.points ? (u: uPlot) => u.data[0].length <= 60 : false, size: 5 },
            spanGaps: true,
          })),
        ],
        hooks: {
          setCursor: [(u) => tell(u.cursor.idx)],
          drawAxes: [
            (u) => {
              const { ctx } = u;
              ctx.save();
              ctx.strokeStyle = rule;
              ctx.fillStyle = ink;
              ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
              ctx.textAlign = 'left';
              ctx.textBaseline = 'alphabetic';
              let free = -Infinity;
              for (const { x, text } of latest.current.boundaries ?? []) {
                const left = u.valToPos(x, 'x', true);
                ctx.beginPath();
                ctx.setLineDash([2 * devicePixelRatio, 3 * devicePixelRatio]);
                ctx.moveTo(left, u.bbox.top);
                ctx.lineTo(left, u.bbox.top + u.bbox.height);
                ctx.stroke();
                const width = ctx.measureText(text).width;
                const room = u.bbox.left + u.bbox.width - left;
                if (left < free || width + 8 * devicePixelRatio > room) continue;
                ctx.fillText(text, left + 5 * devicePixelRatio, u.bbox.top + u.bbox.height - 7 * devicePixelRatio);
                free = left + width + 16 * devicePixelRatio;
              }
              ctx.restore();
            },
          ],
        },
      },
      props.data as uPlot.AlignedData,
      element,
    );
    plot.current = chart;
    tell(undefined);
    const observer = new ResizeObserver(() => {
      const width = element.clientWidth;
      if (width > 0 && width !== chart.width) chart.setSize({ width, height: HEIGHT });
    });
    observer.observe(element);
    return () => {
      observer.disconnect();
      chart.destroy();
      plot.current = undefined;
    };
  }, [shape]);

  useEffect(() => {
    plot.current?.setData(props.data as uPlot.AlignedData);
    tell(plot.current?.cursor.idx);
  }, [props.data]);

  return (
    <figure class="chart">
      <ul class="key" aria-hidden="true">
        {props.lines.map((line) => (
          <li key={line.label}>
            <svg width="26" height="10" viewBox="0 0 26 10">
              <line
                x1="0" y1="5" x2="26" y2="5"
                class={`stroke${line.color}`}
                stroke-width={line.width ?? 2}
                stroke-dasharray={line.dash?.join(' ') ?? 'none'}
              />
            </svg>
            {line.label}
          </li>
        ))}
      </ul>
      <div ref={frame} class="canvas" role="img" aria-label={props.label} />
      <figcaption>
        <p class="axis">{props.xLabel}</p>
        <p ref={readout} class="readout" />
      </figcaption>
    </figure>
  );
}
