interface Credit {
  what: string;
  by: string;
  licence: string;
  href: string;
}

const MAPS: readonly Credit[] = [
  { what: 'Streets of New York, Porto and Bengaluru; water and parks of Porto', by: '© OpenStreetMap contributors', licence: 'ODbL 1.0', href: 'https://www.openstreetmap.org/copyright' },
  { what: 'Manhattan drive graph', by: 'nrel.hive, National Renewable Energy Laboratory', licence: 'BSD-3-Clause', href: 'https://github.com/NREL/hive' },
  { what: 'Taxi zones of New York', by: 'NYC TLC, NYC open data; as in toddwschneider/nyc-taxi-data', licence: 'MIT', href: 'https://github.com/toddwschneider/nyc-taxi-data' },
  { what: 'Extract of Porto', by: 'valhalla/valhalla', licence: 'ODbL 1.0 (data)', href: 'https://github.com/valhalla/valhalla' },
  { what: 'Taxi stands and driven traces of Porto', by: 'Porto: ECML/PKDD 2015 taxi data, Moreira-Matias et al.', licence: 'CC BY 4.0', href: 'https://creativecommons.org/licenses/by/4.0/' },
  { what: 'Wards of Bengaluru', by: 'Bengaluru wards: DataMeet', licence: 'CC BY-SA 2.5 IN', href: 'https://github.com/datameet/Municipal_Spatial_Data' },
  { what: 'Streets of central Bengaluru', by: 'anirudhgovind/multi, from OpenStreetMap', licence: 'ODbL 1.0 (data)', href: 'https://github.com/anirudhgovind/multi' },
];

const RIDES: readonly Credit[] = [
  { what: 'New York: taxi requests of one December evening of 2014', by: 'NYC TLC trip records, as in nrel.hive', licence: 'BSD-3-Clause (package)', href: 'https://github.com/NREL/hive' },
  { what: 'Porto: taxi trips of 1 July 2013', by: 'ECML/PKDD 2015 taxi data, Moreira-Matias et al.', licence: 'CC BY 4.0', href: 'https://creativecommons.org/licenses/by/4.0/' },
  {
    what: 'Bengaluru: synthetic, drawn by the population of the wards; nobody ever asked for these rides',
    by: 'Wards of 2012: DataMeet',
    licence: 'CC BY-SA 2.5 IN',
    href: 'https://github.com/datameet/Municipal_Spatial_Data',
  },
];

const SOFTWARE: readonly Credit[] = [
  { what: 'Map drawing', by: 'MapLibre GL JS contributors', licence: 'BSD-3-Clause', href: 'https://maplibre.org' },
  { what: 'Interface', by: 'React, Meta Platforms and contributors', licence: 'MIT', href: 'https://react.dev' },
  { what: 'Real time', by: 'Socket.IO', licence: 'MIT', href: 'https://socket.io' },
];

export default function Credits() {
  return (
    <div className="page stack">
      <h1>Credits</h1>
      <p className="muted">The maps are made of open data, simplified and carried by this app; nothing is loaded from anybody else while you use it.</p>
      <CreditTable title="Map data" rows={MAPS} />
      <CreditTable title="Rides of the demo companies" rows={RIDES} />
      <CreditTable title="Software" rows={SOFTWARE} />
    </div>
  );
}

function CreditTable({ title, rows }: { title: string; rows: readonly Credit[] }) {
  return (
    <section className="stack-s" aria-label={title}>
      <h2>{title}</h2>
      <div className="table-wrap">
        <table>
          <thead>
            <tr>
              <th scope="col">What</th>
              <th scope="col">By</th>
              <th scope="col">Licence</th>
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => (
              <tr key={row.what}>
                <td>{row.what}</td>
                <td>
                  <a href={row.href} rel="noopener">
                    {row.by}
                  </a>
                </td>
                <td>{row.licence}</td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </section>
  );
}
