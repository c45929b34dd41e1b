import { render } from 'preact';
import { App } from './parts/app';
import { resumeSession } from './state';
import { startTheme } from './theme';
import 'uplot/dist/uPlot.min.css';
import './style/base.css';
import './style/parts.css';

startTheme();
render(<App />, document.getElementById('page')!);
void resumeSession();
